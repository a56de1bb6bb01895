//! How `pgtandem::sql` cuts queries, compared with PostgreSQL: it answers every statement of a query
//! with one `CommandComplete`.

use pgtandem::sql::{Dialect, statements};

use crate::support::{cluster::Cluster, message::query, wire::Client};

/// Statements that PostgreSQL accepts in any order, each with something in it that looks like the
/// end of a statement, or like the end of what hides one.
const STATEMENTS: [&str; 30] = [
    "select ';'",
    "select 'it''s;'",
    r"select 'a\', ';'",
    r"select E'a\';', 1",
    r"select E'\\'",
    "select E'a'\n'\\';'",
    "select 'a' -- ;'\n -- ;\n ';b'",
    "select U&'\\0041;'",
    "select B'1', X'1F', N';'",
    "select $$;'$$",
    "select $a$ ; $$ ; $b$ ;' $a$",
    "select 1 as a$b$",
    "select 1 as \"a;\"\"b;\"",
    "select 1 as U&\"a;\"",
    "select 1 /* ; /* ' ; */ $$ ; */ + 1",
    "select 1 -- ' ; $$ \n + 1",
    "select 1 as begin, 2 as atomic, 3 as end, 4 as case",
    "select case when true then 1 end",
    "select 3 --1\n",
    "select 2 - - 1, @ -1",
    "select (((1)))",
    "set search_path = public, \"a;b\"",
    "create or replace function f() returns int language sql as 'select 1;'",
    "create or replace function f() returns int return 1",
    "create or replace procedure p() begin atomic end",
    "create or replace function f() returns int begin atomic select 1; select 2; end",
    "create or replace function f(x int default (1)) returns int begin atomic select case when true \
     then 1 end as end; select 1 as case; end",
    "create or replace procedure p() begin atomic select 1; end",
    "create or replace rule r as on insert to t do also (delete from t; delete from t)",
    "create or replace rule r as on update to t do also nothing",
];

const BETWEEN: [&str; 6] = [";", " ; ", ";;\n;", "; -- ;\n", "; /* ; */ ", "\n;\n"];

/// Pieces of strings, comments and names, of which most texts fail and some are accepted.
const PIECES: [&str; 24] = [
    "select 1", "select ", "1", " ", "'", "'", "''", "\"", "$$", "$a$", "$", ";", "(", ")", "/*",
    "*/", "--", "\n", "E'", "\\", "U&'", "B'", "a", ",",
];

/// Asks PostgreSQL; `None` if it refuses the query.
fn answered(client: &mut Client, text: &str) -> Option<usize> {
    client.send(&[query(text)]);
    let replies = client.replies_until(|reply| b"Z\0".contains(&reply.tag()));
    let count = |tag: u8| replies.iter().filter(|reply| reply.tag() == tag).count();
    (count(b'E') == 0).then(|| count(b'C'))
}

/// Chooses, always alike (Knuth's MMIX constants).
struct Dice(u64);

impl Dice {
    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let sides = u64::try_from(list.len()).expect("64-bit");
        list[usize::try_from((self.0 >> 33) % sides).expect("64-bit")]
    }
}

fn compare(client: &mut Client, text: &str, dialect: Dialect) -> bool {
    let Some(expected) = answered(client, text) else { return false };
    let found = statements(text.as_bytes(), dialect).count();
    assert_eq!(found, expected, "PostgreSQL sees {expected} statements in {text:?}");
    true
}

#[test]
fn queries_are_cut_where_postgresql_cuts_them() {
    let cluster = Cluster::shared();
    let mut client = cluster.superuser(&cluster.new_database());
    client.rows("create table t (a int)");
    let mut dice = Dice(1);
    for _ in 0..300 {
        let mut text = String::new();
        for _ in 0..5 {
            text.push_str(dice.pick(&STATEMENTS));
            text.push_str(dice.pick(&BETWEEN));
        }
        assert!(compare(&mut client, &text, Dialect::default()), "it is refused: {text}");
    }
}

#[test]
fn whatever_postgresql_accepts_is_cut_as_there() {
    let cluster = Cluster::shared();
    let mut client = cluster.superuser(&cluster.new_database());
    let mut dice = Dice(2);
    for is_backslash_escape in [false, true] {
        let standard = if is_backslash_escape { "off" } else { "on" };
        client.rows(&format!(
            "set standard_conforming_strings = {standard}; set client_min_messages = error"
        ));
        let dialect = Dialect { is_backslash_escape, ..Dialect::default() };
        let mut accepted = 0;
        for _ in 0..30_000 {
            let mut text = "select 1".to_owned();
            for _ in 0..8 {
                text.push_str(dice.pick(&PIECES));
            }
            accepted += u32::from(compare(&mut client, &text, dialect));
        }
        assert!(accepted > 500, "only {accepted} texts were accepted");
    }
}
