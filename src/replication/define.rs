//! Makes a definition on a secondary, in the transaction of its batch: runs its text as it was run, and
//! looks what has become of the tables that follow.

use std::borrow::Cow;
use std::sync::Arc;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::apply::{ApplyError, Followed};
use super::catalog::{self, Kind, Selection, Table, TableName};
use super::connect::{Target, connect};
use super::definition::{Definition, Fate, Shaped};
use super::error::Error;
use super::literal;
use crate::sql::{self, Dialect, Lexer};

/// LIMIT: characters of a text that are shown.
const SHOWN: usize = 200;

/// How long something that is done ahead may wait for a lock.
const AHEAD_WAIT: &str = "SET lock_timeout = '2s'";

/// What a table is behind a definition.
pub(super) struct Settled {
    /// Its number.
    pub(super) number: i32,
    /// What it is now, if it goes on to follow.
    pub(super) followed: Option<Arc<Followed>>,
    /// Whether it is to be copied.
    pub(super) is_copied: bool,
}

/// How the text of a definition begins, on one line.
fn shown(text: &str) -> String {
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = words.char_indices().nth(SHOWN) {
        words.truncate(at);
        words.push('…');
    }
    words
}

/// Runs the text of a definition under the settings that it was made with, and as the same role.
///
/// What the text calls (a function in a default, for example) runs in a session of ours, and could take
/// its rights back: whoever may define on the primary is trusted with those of whoever applies.
pub(super) async fn run(client: &Client, definition: &Definition) -> Result<(), ApplyError> {
    let wrong = || Error::sql("make a definition under its settings");
    let names: Vec<&str> = definition.settings.iter().map(|(name, _)| name.as_str()).collect();
    let values: Vec<&str> = definition.settings.iter().map(|(_, value)| value.as_str()).collect();
    let arrays = [Type::TEXT_ARRAY, Type::TEXT_ARRAY];
    let read = "SELECT coalesce(array_agg(current_setting(n, true) ORDER BY o), '{}') \
                FROM unnest($1::text[]) WITH ORDINALITY AS t(n, o)";
    let set = "SELECT set_config(n, v, true) FROM unnest($1::text[], $2::text[]) AS t(n, v) \
               WHERE v IS NOT NULL AND EXISTS (SELECT FROM pg_settings WHERE name = n)";
    let before = client.query_typed(read, &[(&names, Type::TEXT_ARRAY)]).await.map_err(wrong())?;
    let before: Vec<Option<String>> = match before.first() {
        Some(row) => row.try_get(0).map_err(wrong())?,
        None => vec![],
    };
    let [names_type, values_type] = arrays.clone();
    client
        .query_typed(set, &[(&names, names_type), (&values, values_type)])
        .await
        .map_err(wrong())?;
    let text = placed(client, definition).await?;
    let role = literal::identifier(&definition.role);
    let ran = match client.batch_execute(&format!("SET LOCAL ROLE {role}")).await {
        Ok(()) => client.batch_execute(&text).await,
        Err(error) => Err(error),
    };
    ran.map_err(|source| ApplyError::Undefined {
        id: definition.id,
        text: shown(&definition.text),
        source: Box::new(Error::Sql { what: "make a definition", source }),
    })?;
    // First of all: under the other path, operators could be somebody else's.
    let ours = "SET LOCAL ROLE NONE; SET LOCAL search_path = pg_catalog, pg_temp";
    client.batch_execute(ours).await.map_err(wrong())?;
    let [names_type, values_type] = arrays;
    let values: [(&(dyn ToSql + Sync), Type); 2] = [(&names, names_type), (&before, values_type)];
    client.query_typed(set, &values).await.map_err(wrong())?;
    Ok(())
}

/// The text of a definition, with the database's own tablespace in place of those that are not here:
/// where something is kept is not part of what it is.
async fn placed<'a>(client: &Client, definition: &'a Definition) -> Result<Cow<'a, str>, Error> {
    let text = definition.text.as_str();
    let dialect = dialect(definition);
    let places = sql::tablespaces(text.as_bytes(), dialect);
    if places.is_empty() {
        return Ok(Cow::Borrowed(text));
    }
    let wrong = || Error::sql("look for a tablespace");
    // Written in any way, each name is an identifier; the parser of the server tells which.
    let sql = "SELECT quote_ident(s.spcname) FROM pg_tablespace s JOIN pg_database d \
               ON d.dattablespace = s.oid WHERE d.datname = current_database()";
    let rows = client.query_typed(sql, &[]).await.map_err(wrong())?;
    let own: String = match rows.first() {
        Some(row) => row.try_get(0).map_err(wrong())?,
        None => return Ok(Cow::Borrowed(text)),
    };
    let exists =
        "SELECT EXISTS (SELECT FROM pg_tablespace WHERE spcname::text = (parse_ident($1))[1])";
    let (mut said, mut from) = (String::with_capacity(text.len()), 0);
    for place in places {
        let (Some(before), Some(name)) = (text.get(from..place.start), text.get(place.clone()))
        else {
            continue;
        };
        let rows = client.query_typed(exists, &[(&name, Type::TEXT)]).await.map_err(wrong())?;
        let is_here = rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(wrong())?;
        said.push_str(before);
        said.push_str(if is_here { name } else { &own });
        from = place.end;
    }
    said.push_str(text.get(from..).unwrap_or_default());
    Ok(Cow::Owned(said))
}

/// How the text of a definition is read.
fn dialect(definition: &Definition) -> Dialect {
    let is_off =
        |(name, value): &(String, String)| name == "standard_conforming_strings" && value == "off";
    Dialect { is_backslash_escape: definition.settings.iter().any(is_off), ..Dialect::default() }
}

/// Keeps the text of a definition that is left out.
pub(super) async fn bury(client: &Client, definition: &Definition) -> Result<(), Error> {
    let sql = "INSERT INTO pgtandem.dead_letters (schema, name, op, image, reason) \
               VALUES ('', '', 'definition', $1, $2)";
    let reason = format!("definition {} of transaction {}", definition.id, definition.xid);
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&definition.text, Type::TEXT), (&reason, Type::TEXT)];
    let buried = client.query_typed(sql, &parameters).await;
    buried.map(drop).map_err(Error::sql("keep a skipped definition"))
}

/// Looks what has become of the tables that follow, and notes it.
///
/// Of a definition that was skipped, tables that look otherwise are to be copied once somebody has
/// made them alike.
pub(super) async fn settle(
    client: &Client,
    definition: &Definition,
    selection: &Selection,
    is_skipped: bool,
) -> Result<Vec<Settled>, ApplyError> {
    let shaped: Vec<&Shaped> = definition.tables.iter().collect();
    if shaped.is_empty() {
        return Ok(Vec::new());
    }
    let here = catalog::tables(client, selection).await?;
    let has_brought = brings_unknown(client, &shaped).await?;
    let mut settled = Vec::with_capacity(shaped.len());
    for shaped in shaped {
        let is_meant = shaped.fate != Fate::Released && selection.has(&shaped.table);
        if !is_meant {
            forget(client, shaped.number).await?;
            settled.push(Settled { number: shaped.number, followed: None, is_copied: false });
            continue;
        }
        let table = here.iter().find(|table| table.name == shaped.table);
        let is_alike = |table: &&Table| {
            shaped.fate == Fate::Noted || Some(table.fingerprint()) == shaped.fingerprint
        };
        let alike = table.filter(is_alike).cloned().and_then(Followed::new);
        let is_copied = match &alike {
            None if is_skipped => true,
            None => {
                return Err(ApplyError::Unlike {
                    id: definition.id,
                    text: shown(&definition.text),
                    table: shaped.table.clone(),
                    number: shaped.number,
                });
            }
            Some(followed) => match shaped.fate {
                Fate::Copied => true,
                Fate::Made => has_rows(client, &followed.table).await?,
                Fate::Changed if has_brought && followed.table.kind == Kind::Partitioned => true,
                Fate::Changed => !fill(client, &followed.table, &shaped.missing).await?,
                Fate::Noted | Fate::Released => false,
            },
        };
        note(client, shaped, is_copied).await?;
        let followed = alike.filter(|_| !is_copied).map(Arc::new);
        settled.push(Settled { number: shaped.number, followed, is_copied });
    }
    Ok(settled)
}

/// Whether one of the tables that are given up was still to be copied. It may be a partition of another
/// one now, and its rows are not those of the primary.
async fn brings_unknown(client: &Client, shaped: &[&Shaped]) -> Result<bool, Error> {
    let released = shaped.iter().filter(|shaped| shaped.fate == Fate::Released);
    let released: Vec<i32> = released.map(|shaped| shaped.number).collect();
    if released.is_empty() {
        return Ok(false);
    }
    let wrong = || Error::sql("look what is to be copied");
    let sql = "SELECT EXISTS (SELECT FROM pgtandem.followed f JOIN pgtandem.copied c \
               ON (c.schema, c.name) = (f.schema, f.name) WHERE f.number = ANY ($1))";
    let rows = client.query_typed(sql, &[(&released, Type::INT4_ARRAY)]).await.map_err(wrong())?;
    rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(wrong())
}

/// Notes what a table is called now, and whether it is to be copied.
async fn note(client: &Client, shaped: &Shaped, is_copied: bool) -> Result<(), Error> {
    let wrong = || Error::sql("note what follows");
    let TableName { schema, name } = &shaped.table;
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&shaped.number, Type::INT4), (schema, Type::TEXT), (name, Type::TEXT)];
    let rename = "UPDATE pgtandem.copied c SET schema = $2, name = $3 FROM pgtandem.followed f \
                  WHERE f.number = $1 AND (c.schema, c.name) = (f.schema, f.name) \
                  AND (c.schema, c.name) <> ($2, $3)";
    client.query_typed(rename, &parameters).await.map_err(wrong())?;
    let follow = "INSERT INTO pgtandem.followed (number, schema, name) VALUES ($1, $2, $3) \
                  ON CONFLICT (number) DO UPDATE SET schema = excluded.schema, name = excluded.name";
    client.query_typed(follow, &parameters).await.map_err(wrong())?;
    if is_copied {
        super::progress::await_copy(client, std::slice::from_ref(&shaped.table)).await?;
    }
    Ok(())
}

/// Notes that a table does not follow any more.
async fn forget(client: &Client, number: i32) -> Result<(), Error> {
    let wrong = || Error::sql("note what does not follow");
    let number: [(&(dyn ToSql + Sync), Type); 1] = [(&number, Type::INT4)];
    let copied = "DELETE FROM pgtandem.copied c USING pgtandem.followed f \
                  WHERE f.number = $1 AND (c.schema, c.name) = (f.schema, f.name)";
    client.query_typed(copied, &number).await.map_err(wrong())?;
    let followed = "DELETE FROM pgtandem.followed WHERE number = $1";
    client.query_typed(followed, &number).await.map(drop).map_err(wrong())
}

async fn has_rows(client: &Client, table: &Table) -> Result<bool, Error> {
    let wrong = || Error::sql("look whether a new table is empty");
    let sql = format!("SELECT EXISTS (SELECT FROM {})", table.only());
    let rows = client.query_typed(&sql, &[]).await.map_err(wrong())?;
    rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(wrong())
}

/// Gives rows the values that they have on the primary in columns that have just come; false if
/// these cannot be told.
///
/// A default such as `now()` is computed once, when the column comes, and was something else on the
/// primary.
async fn fill(client: &Client, table: &Table, missing: &[(String, String)]) -> Result<bool, Error> {
    let wrong = || Error::sql("fill a new column");
    let found = "SELECT attmissingval::text FROM pg_attribute \
                 WHERE attname = $2 AND attrelid = coalesce(\
                     (SELECT relid::oid FROM pg_partition_tree($1) WHERE isleaf \
                      ORDER BY relid::oid LIMIT 1), $1)";
    for (name, value) in missing {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&table.oid, Type::OID), (name, Type::TEXT)];
        let rows = client.query_typed(found, &parameters).await.map_err(wrong())?;
        let is: Option<String> =
            rows.first().map_or(Ok(None), |row| row.try_get(0)).map_err(wrong())?;
        if is.as_ref() == Some(value) {
            continue;
        }
        let Some(column) = table.columns.iter().find(|column| column.name == *name) else {
            return Ok(false);
        };
        if column.type_sql.ends_with(']') {
            return Ok(false);
        }
        let only = match table.kind {
            Kind::Ordinary => table.only(),
            Kind::Partitioned => table.name.quoted(),
        };
        let sql = format!(
            "UPDATE {only} SET {} = ({}::{}[])[1]",
            literal::identifier(name),
            literal::text(value),
            column.type_sql
        );
        client.batch_execute(&sql).await.map_err(wrong())?;
    }
    Ok(true)
}

/// Does ahead, in a transaction of its own, what could not be used in the transaction that makes it:
/// labels of enums. Says whether it is done, now or before.
///
/// They are there a moment earlier than on the primary, and nothing uses them before. If it cannot be
/// done ahead (the type is made in the same batch, under a name that another one gives up), it is
/// done in its turn.
pub(super) async fn ahead(target: &Target, definition: &Definition) -> Result<bool, Error> {
    let is_label = definition.how.contains("label");
    if !is_label && !definition.how.contains("enum") {
        return Ok(false);
    }
    let client = connect(target).await?;
    client.batch_execute(AHEAD_WAIT).await.map_err(Error::sql("begin a definition"))?;
    let text = if is_label { if_not_exists(definition) } else { definition.text.clone() };
    let one = Definition { text, ..definition.clone() };
    client.batch_execute("BEGIN").await.map_err(Error::sql("begin a definition"))?;
    // Dropped with the connection, and so rolled back, unless it succeeds.
    match run(&client, &one).await {
        Ok(()) => {
            client.batch_execute("COMMIT").await.map_err(Error::sql("commit a definition"))?;
            Ok(true)
        }
        // It was made ahead before, and the batch it belongs to has failed.
        Err(ApplyError::Undefined { source, .. }) => {
            Ok(source.server_said().is_some_and(|said| *said.code() == SqlState::DUPLICATE_OBJECT))
        }
        Err(_) => Ok(false),
    }
}

/// The tables whose columns are of an enum that has labels which this transaction has added: nothing
/// can have them before it is over.
pub(super) async fn users_of_new_labels(client: &Client) -> Result<Vec<TableName>, Error> {
    let wrong = || Error::sql("look who uses new labels");
    let sql = "SELECT DISTINCT n.nspname::text, c.relname::text \
               FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid \
               JOIN pg_attribute a ON a.atttypid IN (t.oid, t.typarray) AND a.attnum > 0 \
               JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE e.xmin = pg_current_xact_id()::xid";
    let rows = client.query_typed(sql, &[]).await.map_err(wrong())?;
    let read = |row: &tokio_postgres::Row| {
        Ok(TableName { schema: row.try_get(0)?, name: row.try_get(1)? })
    };
    rows.iter().map(read).collect::<Result<_, _>>().map_err(wrong())
}

/// Writes IF NOT EXISTS behind ADD VALUE, unless it is there.
fn if_not_exists(definition: &Definition) -> String {
    let text = definition.text.as_str();
    let mut tokens = Lexer::new(text.as_bytes(), dialect(definition));
    while let Some(token) = tokens.next() {
        if token.is("add")
            && let Some(value) = tokens.peek().filter(|next| next.is("value"))
        {
            tokens.next();
            let (before, behind) = text.split_at(value.end());
            let has_it = tokens.peek().is_some_and(|next| next.is("if"));
            let condition = if has_it { "" } else { " IF NOT EXISTS" };
            return format!("{before}{condition}{behind}");
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_added_unless_they_are_there() {
        let check = |text: &str, expected: &str| {
            let definition = Definition {
                id: 1,
                xid: 1,
                how: "label".to_owned(),
                text: text.to_owned(),
                role: String::new(),
                settings: vec![],
                tables: vec![],
                rows: (1, 1),
            };
            assert_eq!(if_not_exists(&definition), expected);
        };
        check("ALTER TYPE m ADD VALUE 'x'", "ALTER TYPE m ADD VALUE IF NOT EXISTS 'x'");
        let both = "alter type \"add\" add value if not exists 'add value' before 'y'";
        check(both, both);
        check("ALTER TYPE m RENAME VALUE 'a' TO 'b'", "ALTER TYPE m RENAME VALUE 'a' TO 'b'");
    }

    #[test]
    fn texts_are_shown_on_one_line() {
        assert_eq!(shown("CREATE TABLE\n  t ()"), "CREATE TABLE t ()");
        assert!(shown(&"é".repeat(1000)).chars().count() == SHOWN + 1);
    }
}
