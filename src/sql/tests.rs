use proptest::prelude::*;

use super::*;

const DIALECT: Dialect = Dialect { charset: Charset::Apart, is_backslash_escape: false };

fn parts(query: &str) -> Vec<&str> {
    statements(query.as_bytes(), DIALECT)
        .map(|part| std::str::from_utf8(part.text).expect("it was text"))
        .collect()
}

fn tokens(query: &[u8], dialect: Dialect) -> Vec<(Kind, String)> {
    let shown = |token: Token<'_>| (token.kind, String::from_utf8_lossy(token.text).into_owned());
    Lexer::new(query, dialect).map(shown).collect()
}

fn class(text: &str) -> Class<'_> {
    classify(text.as_bytes(), DIALECT)
}

#[test]
fn semicolons_end_statements_only_outside_of_everything() {
    let whole = [
        "select ';'",
        "select 'a'';'",
        r"select E'\';'",
        "select U&';'",
        "select $$;$$",
        "select $a$ ; $$ ; $b$ ; $a$",
        "select \"a;\"\"b;\"",
        "select U&\"a;\"",
        "select 1 /* ; /* ; */ ; */ + 1",
        "select 1 -- ;\n + 1",
        "select a$b$;$b$c", // not a dollar quote: two statements in fact
        "create rule r as on insert to t do also (delete from a; delete from b)",
        "create function f() returns int begin atomic select 1; select 2; end",
        "create or replace procedure p() begin atomic select case when true then 1 end; end",
        "create function f() returns int begin atomic end",
        "create function f() returns int language sql return 1",
        "create function f(x int default (1)) returns int as 'select 1;' language sql",
        "create function f() returns int begin atomic create function g() returns int begin atomic \
         select 1; end; select begin atomic; select 1 as end; end",
    ];
    for text in whole {
        let expected: Vec<&str> = match text {
            "select a$b$;$b$c" => vec!["select a$b$", "$b$c"],
            _ => vec![text],
        };
        assert_eq!(parts(text), expected);
        if expected.len() == 1 {
            let both = format!("; {text} ;; -- x\n begin /* y */;");
            assert_eq!(parts(&both), [text, "begin"]);
        }
    }
}

#[test]
fn begin_is_no_body_elsewhere() {
    assert_eq!(parts("begin; select 1; end"), ["begin", "select 1", "end"]);
    assert_eq!(parts("select begin atomic; end"), ["select begin atomic", "end"]);
    assert_eq!(
        parts("create function f() returns int return 1; begin; end"),
        ["create function f() returns int return 1", "begin", "end"]
    );
    assert_eq!(parts("create table t (a int); end"), ["create table t (a int)", "end"]);
    assert_eq!(parts(""), [""; 0]);
    assert_eq!(parts(" ; /* */ ; -- "), [""; 0]);
}

#[test]
fn tokens_end_where_postgresql_says() {
    let kinds = |text: &str| -> Vec<Kind> {
        Lexer::new(text.as_bytes(), DIALECT).map(|token| token.kind).collect()
    };
    assert_eq!(kinds(r"'a\' b"), [Kind::Literal, Kind::Word]);
    assert_eq!(kinds(r"e'a\'' b"), [Kind::LiteralEscaped, Kind::Word]);
    assert_eq!(kinds("'a'\n 'b'"), [Kind::Literal]);
    assert_eq!(kinds("'a' -- c\n -- d\n'b'"), [Kind::Literal]);
    assert_eq!(kinds("'a' 'b'"), [Kind::Literal, Kind::Literal]);
    assert_eq!(kinds("E'a'\n'b\\' c'"), [Kind::LiteralEscaped]);
    assert_eq!(kinds("'a' /* c */\n'b'"), [Kind::Literal, Kind::Literal]);
    assert_eq!(kinds("fe'a'"), [Kind::Word, Kind::Literal]);
    assert_eq!(kinds("n'a'"), [Kind::Word, Kind::Literal]);
    assert_eq!(kinds("$1$2"), [Kind::Parameter, Kind::Parameter]);
    assert_eq!(kinds("$1$a$x$a$"), [Kind::Parameter, Kind::LiteralDollar]);
    assert_eq!(kinds("a$$ b"), [Kind::Word, Kind::Word]);
    assert_eq!(kinds("1--2\n"), [Kind::Number]);
    assert_eq!(kinds("+/*x*/-"), [Kind::Symbol(b'+'), Kind::Symbol(b'-')]);
    for unfinished in ["'a", "\"a", "/* /* */", "$a$ $b$", r"e'\'", "u&'a", "u&\"a"] {
        assert_eq!(kinds(unfinished), [Kind::Unfinished], "{unfinished}");
    }
}

#[test]
fn strings_end_as_their_dialect_says() {
    let escaping = Dialect { is_backslash_escape: true, ..DIALECT };
    assert_eq!(tokens(br"'a\' b'", escaping).len(), 1);
    assert_eq!(tokens(br"'a\' b", DIALECT).len(), 2);
    // The second byte of a character looks like a backslash.
    let text = b"e'\x95\x5c' b";
    let japanese = Dialect { charset: Charset::of(b"SJIS"), ..DIALECT };
    assert_eq!(tokens(text, japanese).len(), 2);
    assert_eq!(tokens(text, DIALECT)[0].0, Kind::Unfinished);
    // In this encoding 0xB1 is a character of its own.
    assert_eq!(tokens(b"e'\xb1\\' c'", japanese).len(), 1);
    assert_eq!(tokens(b"e'\xb1\\' c'", Dialect { charset: Charset::Pairs, ..DIALECT }).len(), 3);
}

#[test]
fn transaction_control_is_told_apart() {
    let of = |text: &'static str| match class(text).action {
        Action::Transaction(transaction) => transaction,
        other => panic!("{text} is {other:?}"),
    };
    for text in
        ["begin", "BEGIN WORK", "start transaction read only", "Begin isolation level serializable"]
    {
        assert_eq!(of(text), Transaction::Begin);
    }
    for text in ["commit", "end", "COMMIT WORK", "commit and no chain", "end transaction"] {
        assert_eq!(of(text), Transaction::Commit { is_chained: false });
    }
    assert_eq!(of("commit and chain"), Transaction::Commit { is_chained: true });
    assert_eq!(of("rollback work and chain"), Transaction::Rollback { is_chained: true });
    for text in ["rollback", "abort", "/* x */ rollback -- y"] {
        assert_eq!(of(text), Transaction::Rollback { is_chained: false });
    }
    let is_a = |name: Name<'_>| name.is("a");
    assert!(matches!(of("savepoint A"), Transaction::Savepoint(n) if is_a(n)));
    assert!(matches!(of("rollback to savepoint \"a\""), Transaction::RollbackTo(n) if is_a(n)));
    assert!(matches!(of("rollback transaction to a"), Transaction::RollbackTo(n) if is_a(n)));
    assert!(matches!(of("release a"), Transaction::Release(n) if is_a(n)));
    assert!(matches!(of("release savepoint a"), Transaction::Release(n) if is_a(n)));
    assert!(matches!(of("release savepoint"), Transaction::Release(n) if n.is("savepoint")));
    assert_eq!(of("prepare transaction 'x'"), Transaction::Prepare);
    assert_eq!(of("commit prepared 'x'"), Transaction::CommitPrepared);
    assert_eq!(of("rollback prepared 'x'"), Transaction::RollbackPrepared);
}

fn setting(text: &str) -> (Scope, String, Option<Vec<String>>) {
    let Action::Set(setting) = class(text).action else { panic!("{text} sets nothing") };
    let name = match setting.target {
        Target::Parameter(_) => {
            String::from_utf8(setting.target.parameter().expect("it is one")).expect("ASCII")
        }
        other => format!("{other:?}"),
    };
    let shown = |values: Vec<Vec<u8>>| {
        values.into_iter().map(|value| String::from_utf8_lossy(&value).into_owned()).collect()
    };
    let value = match setting.value {
        Value::Default => Some(vec!["DEFAULT".to_owned()]),
        Value::Constants(_) | Value::Unclear => setting.value.constants(DIALECT).map(shown),
    };
    (setting.scope, name, value)
}

#[test]
fn settings_are_read_as_the_grammar_has_them() {
    let session = |text: &str, name: &str, values: &[&str]| {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        assert_eq!(setting(text), (Scope::Session, name.to_owned(), Some(values)), "{text}");
    };
    session("SET statement_timeout = '5s'", "statement_timeout", &["5s"]);
    session("set session Statement_Timeout to 5000", "statement_timeout", &["5000"]);
    session(
        "set search_path = \"$user\", Public, 'X y'",
        "search_path",
        &["$user", "public", "X y"],
    );
    session("set search_path to default", "search_path", &["DEFAULT"]);
    session("set a.b = on", "a.b", &["on"]);
    session("set \"A\".b to TRUE;", "A.b", &["true"]);
    session("set x = -1.5", "x", &["-1.5"]);
    session("set x = 'it''s'", "x", &["it's"]);
    session("set role alice", "role", &["alice"]);
    session("set session role to alice", "role", &["alice"]);
    session("set role none", "role", &["none"]);
    session("set session authorization bob", "session_authorization", &["bob"]);
    session("set session authorization default", "session_authorization", &["DEFAULT"]);
    session("set session session authorization 'Bob'", "session_authorization", &["Bob"]);
    session("set names 'UTF8'", "client_encoding", &["UTF8"]);
    session("set schema 'x'", "search_path", &["x"]);
    session("set xml option document", "xmloption", &["document"]);
    session("reset statement_timeout", "statement_timeout", &["DEFAULT"]);
    session("reset role", "role", &["DEFAULT"]);
    session("reset all", "All", &["DEFAULT"]);
    session("reset time zone", "timezone", &["DEFAULT"]);
    session("reset session authorization", "session_authorization", &["DEFAULT"]);
    let unclear = |text: &str, scope: Scope, name: &str| {
        assert_eq!(setting(text), (scope, name.to_owned(), None), "{text}");
    };
    unclear("set x from current", Scope::Session, "x");
    unclear(r"set x = E'\x41'", Scope::Session, "x");
    unclear("set x = 1 + 1", Scope::Session, "x");
    unclear("set x = 'a'\n'b'", Scope::Session, "x");
    unclear("set time zone local", Scope::Session, "timezone");
    unclear("set transaction read only", Scope::Local, "Transaction");
    unclear("set local transaction read only", Scope::Local, "Transaction");
    unclear("set constraints all deferred", Scope::Local, "Constraints");
    unclear(
        "set session characteristics as transaction read only",
        Scope::Session,
        "Characteristics",
    );
    assert_eq!(setting("set local x = 1").0, Scope::Local);
    assert_eq!(setting("set local role alice").0, Scope::Local);
}

#[test]
fn what_a_statement_may_set_is_known_by_name() {
    let of = |text: &'static str| {
        let shown = |name: Vec<u8>| String::from_utf8(name).expect("ASCII");
        let names = settings_of(text.as_bytes(), DIALECT)?;
        Some(names.into_iter().map(shown).collect::<Vec<_>>())
    };
    let some = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(
        of("SELECT pg_catalog.set_config('search_path', '', false)"),
        some(&["search_path"])
    );
    assert_eq!(
        of(
            "select set_config('a', $1, x), set_config('l', 'x', true), set_config('b''s', f(1), 'f')"
        ),
        some(&["a", "b's"])
    );
    assert_eq!(of("select set_config($1, 'b', false)"), None);
    assert_eq!(of("select set_config('a' || 'b', 'b', false)"), None);
    assert_eq!(
        of(
            "do $x$ begin set a.b = 1; update t set c = 2; perform set_config('d', 'e', false); end $x$"
        ),
        some(&["a.b", "c", "d"])
    );
    assert_eq!(of("do 'begin set session x to ''1''; end'"), some(&["x"]));
    assert_eq!(of("do $$ begin execute 'set x = 1'; end $$"), None);
    assert_eq!(of("do $$ begin perform set_config(a, 'set', false); end $$"), None);
    assert_eq!(
        of("select query_to_xml('select set_config(''x'', ''1'', false)', true, true, '')"),
        some(&["x"])
    );
}

#[test]
fn what_a_statement_leaves_behind_is_seen() {
    let check = |text: &str, expected: Traces| {
        assert_eq!(class(text).traces, expected, "{text}");
        if !expected.is_none() {
            assert_eq!(glance(text.as_bytes()), Glance::Unclear, "{text}");
        }
    };
    check("select 1 from t where f(set_bit(a, 1, 2)) and pg_sleep(1) is null", Traces::NONE);
    check("select set_config('a', x, false)", Traces::SETTING);
    check("select set_config('a', f(x, y), true)", Traces::NONE);
    check("select set_config('a', x, is_local)", Traces::SETTING);
    check("select (select \"set_config\" ('a', 'b', false))", Traces::SETTING);
    check("select \"SET_CONFIG\"('a', 'b', false)", Traces::NONE);
    check("select u&\"\\0073et_config\"('a', 'b', false)", Traces::LASTING);
    check("select set_config/* x */('a', 'b', false)", Traces::SETTING);
    check("select set_config -- x\n ('a', 'b', false)", Traces::SETTING);
    check("select 'set_config('", Traces::NONE);
    check("with x as (select pg_catalog.pg_advisory_lock(1)) select * from x", Traces::LOCK);
    check("update t set a = 1 where pg_try_advisory_lock_shared(a)", Traces::LOCK);
    check("select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2)", Traces::NONE);
    check("select pg_advisory_unlock(1)", Traces::UNLOCK);
    check("select pg_advisory_unlock_all()", Traces::UNLOCK);
    check("insert into t values (setseed(0.5))", Traces::LASTING);
    check("select lastval()", Traces::SEQUENCE);
    check("select 1 into temp t", Traces::TEMPORARY);
    check("(select 1 into local temporary table t)", Traces::TEMPORARY);
    check("with x as (select 1) select * into pg_temp.t from x", Traces::TEMPORARY);
    check("create temp table t (a int)", Traces::TEMPORARY);
    check("create temp table t (a int) on commit drop", Traces::TEMPORARY_LOCAL);
    check("create temp table t on commit drop as select ')' as on", Traces::TEMPORARY_LOCAL);
    check("create table pg_temp.t (a int)", Traces::TEMPORARY);
    check("create table \"pg_temp_3\".t (a int)", Traces::TEMPORARY);
    check("create function pg_temp.f() returns int return 1", Traces::TEMPORARY);
    check("create or replace temporary view v as select 1", Traces::TEMPORARY);
    check("create table t as select pg_advisory_lock(1)", Traces::LOCK);
    check("create view v as select pg_advisory_lock(1)", Traces::NONE);
    check("explain analyze select setseed(1)", Traces::LASTING);
    check("explain (analyze, costs off) select setseed(1)", Traces::LASTING);
    check("explain (analyze off) select setseed(1)", Traces::NONE);
    check("explain (select setseed(1))", Traces::NONE);
    check("explain select setseed(1)", Traces::NONE);
    check("do $$ begin null; end $$", Traces::NONE);
    check("do $$ begin perform set_config('a', 'b', false); end $$", Traces::HIDDEN);
    check("do $$ begin execute 'x'; end $$", Traces::HIDDEN);
    check("select query_to_xml('select pg_advisory_lock(1)', true, true, '')", Traces::HIDDEN);
    check("load 'auto_explain'", Traces::LASTING);
    check("copy (select pg_advisory_lock(1)) to stdout", Traces::LOCK);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a line per case")]
fn definitions_are_told_apart() {
    let of = |text: &'static str| match class(text).action {
        Action::Define(definition) => definition,
        other => panic!("{text} is {other:?}"),
    };
    let check = |text: &'static str, verb, object, name: &str| {
        let found = of(text);
        assert_eq!(
            (found.verb, found.object, found.name),
            (verb, object, name.as_bytes()),
            "{text}"
        );
    };
    check("create table if not exists a.\"B\" (x int)", Verb::Create, Object::Table, "a.\"B\"");
    check("create unlogged table t (x int)", Verb::Create, Object::Table, "t");
    check("create unique index concurrently i on t (x)", Verb::Create, Object::Index, "i");
    check("create index on t (x)", Verb::Create, Object::Index, "");
    check("create or replace view v as select 1", Verb::Create, Object::View, "v");
    check("create recursive view v as select 1", Verb::Create, Object::View, "v");
    check("create materialized view m as select 1", Verb::Create, Object::MaterializedView, "m");
    check("create constraint trigger t after insert on x", Verb::Create, Object::Trigger, "t");
    check("create event trigger e on sql_drop", Verb::Create, Object::EventTrigger, "e");
    check("create foreign table f (a int)", Verb::Create, Object::ForeignTable, "f");
    check("create foreign data wrapper w", Verb::Create, Object::ForeignDataWrapper, "w");
    check("create user mapping for a server b", Verb::Create, Object::UserMapping, "for");
    check("create user u", Verb::Create, Object::Role, "u");
    check(
        "create text search configuration c (parser = p)",
        Verb::Create,
        Object::TextSearch,
        "configuration",
    );
    check("alter table only t add x int", Verb::Alter, Object::Table, "t");
    check(
        "alter default privileges grant select on tables to x",
        Verb::Alter,
        Object::DefaultPrivileges,
        "grant",
    );
    check("drop table if exists a, b cascade", Verb::Drop, Object::Table, "a");
    check("drop owned by x", Verb::Drop, Object::Owned, "by");
    check("comment on column t.x is 'y'", Verb::Describe, Object::Column, "t.x");
    check("grant select on t to u", Verb::Permit, Object::Other, "select");
    check(
        "refresh materialized view concurrently m",
        Verb::Refresh,
        Object::MaterializedView,
        "concurrently",
    );
    check("select a into t from x", Verb::Create, Object::Table, "t");
    for query in
        ["create table t as select 1", "create table t (a) as values (1)", "select 1 into t"]
    {
        assert!(of(query).has_query, "{query}");
    }
    assert!(!of("create table t (a int generated always as (1) stored)").has_query);
    for alone in [
        "create index concurrently i on t (x)",
        "drop index concurrently if exists i",
        "create database d",
        "drop tablespace s",
        "alter system set x = 1",
        "alter table t detach partition p concurrently",
        "alter database d set tablespace s",
    ] {
        assert!(of(alone).is_alone, "{alone}");
    }
    for not in [
        "create index i on t (x)",
        "alter table t detach partition p",
        "alter database d set x = 1",
    ] {
        assert!(!of(not).is_alone, "{not}");
    }
    for select in
        ["insert into t select 1", "select 1 as into", "select t.into from t", "select 'into t'"]
    {
        assert!(!matches!(class(select).action, Action::Define(_)), "{select}");
    }
}

#[test]
fn the_rest_is_told_apart() {
    let action = |text: &'static str| class(text).action;
    assert!(matches!(action("prepare p as select 1"), Action::Prepare(name) if name.is("p")));
    assert!(matches!(action("execute \"P\"(1)"), Action::Execute(name) if name.is("P")));
    assert!(matches!(action("explain analyze execute p"), Action::Execute(_)));
    assert_eq!(action("deallocate prepare all"), Action::Deallocate(Names::All));
    assert!(
        matches!(action("deallocate prepare"), Action::Deallocate(Names::One(n)) if n.is("prepare"))
    );
    assert!(matches!(action("listen Ch"), Action::Listen(name) if name.is("ch")));
    assert_eq!(action("unlisten *"), Action::Unlisten(Names::All));
    assert!(matches!(
        action("declare c binary cursor with hold for select 1"),
        Action::Declare { is_holding: true, .. }
    ));
    assert!(matches!(
        action("declare c cursor without hold for select 1 with"),
        Action::Declare { is_holding: false, .. }
    ));
    assert_eq!(action("discard temporary"), Action::Discard(Discard::Temporary));
    assert_eq!(action("discard all"), Action::Discard(Discard::All));
    assert_eq!(action("copy t from stdin"), Action::Copy);
    assert_eq!(action("vacuum t"), Action::Maintain { is_alone: true });
    assert_eq!(action("reindex index concurrently i"), Action::Maintain { is_alone: true });
    assert_eq!(action("reindex table t"), Action::Maintain { is_alone: false });
    assert_eq!(action("cluster"), Action::Maintain { is_alone: true });
    assert_eq!(action("do 'x'"), Action::Run);
    assert_eq!(action("table t"), Action::Select);
    assert_eq!(action("merge into t using s on true when matched then delete"), Action::Change);
    assert_eq!(action(""), Action::Nothing);
    assert_eq!(action("frobnicate"), Action::Other);
}

#[test]
fn a_glance_knows_what_is_sent_all_the_time() {
    for plain in [
        "SELECT abalance FROM pgbench_accounts WHERE aid = 1;",
        "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1",
        "INSERT INTO \"users\" (\"id\", \"name\") VALUES ($1, $2) RETURNING \"id\"",
        "delete from t where id in (select id from x)",
        "select count(*), lower(x), coalesce(sum(y), 0) from t where f && g",
        "/* app:x, action:y */ select 1",
    ] {
        assert_eq!(glance(plain.as_bytes()), Glance::Plain, "{plain}");
    }
    for transaction in ["BEGIN", "begin;", " COMMIT ; ", "END", "ROLLBACK"] {
        assert_eq!(glance(transaction.as_bytes()), Glance::Transaction, "{transaction}");
    }
    for unclear in
        ["", ";", "select 1; set x = 1", "rollback to a", "set x = 1", "selectx", "-- x\nselect 1"]
    {
        assert_eq!(glance(unclear.as_bytes()), Glance::Unclear, "{unclear}");
    }
}

/// Pieces of which many texts make sense, and others nearly.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "select ",
        "set ",
        "x",
        " = ",
        "1",
        "'",
        "''",
        "\"",
        "$$",
        "$a$",
        "$1",
        ";",
        "(",
        ")",
        "/*",
        "*/",
        "--",
        "\n",
        "begin ",
        "atomic ",
        "end",
        "create ",
        "or replace ",
        "function ",
        "E'",
        "\\",
        "U&'",
        "U&\"",
        ",",
        ".",
        "set_config",
        "pg_advisory_lock",
        "into ",
        "temp ",
        "é",
        "insert ",
        "false",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn dialects() -> impl Strategy<Value = Dialect> {
    let charset = prop::sample::select(vec![Charset::Apart, Charset::Pairs, Charset::ShiftJis]);
    (charset, any::<bool>())
        .prop_map(|(charset, is_backslash_escape)| Dialect { charset, is_backslash_escape })
}

fn check_any(query: &[u8], dialect: Dialect) {
    let mut at = 0;
    for token in Lexer::new(query, dialect) {
        assert!(token.at >= at && !token.text.is_empty(), "tokens follow one another");
        at = token.end();
    }
    assert!(at <= query.len());
    let mut end = 0;
    let mut count = 0;
    for part in statements(query, dialect) {
        assert!(part.at >= end, "parts follow one another");
        let between = Lexer::new(&query[end..part.at], dialect);
        assert!(between.into_iter().all(|token| token.kind == Kind::Symbol(b';')));
        assert_eq!(&query[part.at..part.at + part.text.len()], part.text);
        end = part.at + part.text.len();
        count += 1;
        let class = classify(part.text, dialect);
        if let Action::Set(setting) = class.action {
            setting.value.constants(dialect);
            setting.target.parameter();
        }
        settings_of(part.text, dialect);
    }
    assert!(Lexer::new(&query[end..], dialect).all(|token| token.kind == Kind::Symbol(b';')));
    if glance(query) == Glance::Plain {
        let is_nothing = statements(query, dialect).all(|part| {
            let class = classify(part.text, dialect);
            class.traces.is_none() && matches!(class.action, Action::Select | Action::Change)
        });
        assert!(count == 1 && is_nothing, "a glance that missed something");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_do_harm(query in prop::collection::vec(any::<u8>(), 0..200), dialect in dialects()) {
        check_any(&query, dialect);
    }

    #[test]
    fn nearly_sensible_texts_are_cut_and_come_together_again(query in pieces(), dialect in dialects()) {
        check_any(query.as_bytes(), dialect);
    }
}

#[test]
fn time_is_linear_in_what_is_nested() {
    for piece in [
        "/*",
        "(",
        "$a$",
        "'a'\n",
        "begin atomic ",
        "create function begin atomic ;",
        "--\n",
        "E'\\",
        "(1, 'x'), ",
        "(1),\n",
        "\"a\"(",
        "set_config(",
        "set a = 1;",
    ] {
        let query = format!("insert {}", piece.repeat(200_000));
        let began = std::time::Instant::now();
        check_any(query.as_bytes(), DIALECT);
        assert!(began.elapsed().as_secs() < 10, "{piece} takes {:?}", began.elapsed());
    }
}
