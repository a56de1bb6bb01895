//! The kinds of session state.

/// What the kinds need.
pub const SCHEMA: &str = "CREATE SCHEMA other; GRANT ALL ON SCHEMA public TO PUBLIC";

/// Something that a session can have.
pub struct Kind {
    /// Leaves it.
    pub leave: &'static str,
    /// Looks for it; always gives one value.
    pub look: &'static str,
    /// What whoever has it sees.
    pub mine: &'static str,
    /// What everybody else sees.
    pub other: &'static str,
    /// Takes it back, if there is a way beside DISCARD ALL.
    pub take_back: &'static str,
    /// Why it keeps its client at a backend, in the words of the console; empty if it does not.
    pub pinned: &'static str,
    /// A rollback does not take it back.
    pub survives_rollback: bool,
}

const fn carried(
    leave: &'static str,
    look: &'static str,
    mine: &'static str,
    other: &'static str,
    take_back: &'static str,
) -> Kind {
    Kind { leave, look, mine, other, take_back, pinned: "", survives_rollback: false }
}

const fn pinning(
    leave: &'static str,
    look: &'static str,
    take_back: &'static str,
    pinned: &'static str,
) -> Kind {
    let survives_rollback = false;
    Kind { leave, look, mine: "1", other: "0", take_back, pinned, survives_rollback }
}

const fn lock(leave: &'static str) -> Kind {
    let look =
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
    let take_back = "select pg_advisory_unlock_all()";
    Kind { survives_rollback: true, ..pinning(leave, look, take_back, "advisory lock") }
}

const fn temporary(leave: &'static str, take_back: &'static str) -> Kind {
    let look = "select count(*) from pg_class where relname = 'leak' \
                and relnamespace = pg_my_temp_schema()";
    pinning(leave, look, take_back, "temporary object")
}

const TIMEOUT: &str = "show statement_timeout";
const CUSTOM: &str = "select coalesce(nullif(current_setting('my.x', true), ''), '-')";
const RESET_CUSTOM: &str = "reset my.x";

pub const KINDS: &[Kind] = &[
    carried("set statement_timeout = '77s'", TIMEOUT, "77s", "0", "reset statement_timeout"),
    carried("SET SESSION Statement_Timeout TO 77000", TIMEOUT, "77s", "0", "reset all"),
    carried(
        "set search_path = other, \"$user\", \"a b\"",
        "show search_path",
        "other, \"$user\", \"a b\"",
        "\"$user\", public",
        "set search_path to default",
    ),
    carried("set search_path = ''", "show search_path", "\"\"", "\"$user\", public", "reset all"),
    carried(
        "select pg_catalog.set_config('search_path', '', false)",
        "select '<' || current_setting('search_path') || '>'",
        "<>",
        "<\"$user\", public>",
        "reset search_path",
    ),
    carried("set my.x = 'it''s \\'", CUSTOM, "it's \\", "-", RESET_CUSTOM),
    carried("select set_config('my.x', 'a' || 'b', false)", CUSTOM, "ab", "-", RESET_CUSTOM),
    carried("set role dave", "select current_user", "dave", "postgres", "reset role"),
    carried("set role dave", "select current_user", "dave", "postgres", "set role none"),
    carried(
        "set session authorization dave",
        "select session_user",
        "dave",
        "postgres",
        "reset session authorization",
    ),
    carried(
        "set session characteristics as transaction isolation level serializable",
        "show transaction_isolation",
        "serializable",
        "read committed",
        "reset default_transaction_isolation",
    ),
    carried("set xml option document", "show xmloption", "document", "content", "reset xmloption"),
    carried(
        "do $$ begin perform set_config('statement_timeout', '77s', false); end $$",
        TIMEOUT,
        "77s",
        "0",
        "reset statement_timeout",
    ),
    carried("do $$ begin set my.x = 'ab'; end $$", CUSTOM, "ab", "-", RESET_CUSTOM),
    lock("select pg_advisory_lock(77)"),
    lock("select pg_try_advisory_lock_shared(7, 7)"),
    lock("with x as (select pg_advisory_lock(77)) select 1 from x"),
    lock("do $$ begin perform pg_advisory_lock(77); end $$"),
    temporary("create temp table leak (a int)", "drop table leak"),
    temporary("create temp table leak (a int) on commit delete rows", "discard temp"),
    temporary("create table pg_temp.leak as select 1", "drop table leak"),
    temporary("select 1 as a into temporary leak", "drop table if exists leak"),
    temporary("create temporary view leak as select 1", "drop view leak"),
    temporary("create temp sequence leak", "drop sequence leak"),
    temporary("do $$ begin create temp table leak (a int); end $$", "drop table leak"),
    pinning(
        "listen leak",
        "select count(*) from pg_listening_channels()",
        "unlisten leak",
        "listen",
    ),
    pinning(
        "declare leak cursor with hold for select 1",
        "select count(*) from pg_cursors where name = 'leak'",
        "close leak",
        "cursor",
    ),
    Kind {
        survives_rollback: true,
        ..pinning(
            "prepare leak as select 1",
            "select count(*) from pg_prepared_statements where from_sql",
            "deallocate leak",
            "prepare",
        )
    },
];
