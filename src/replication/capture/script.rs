//! Capture as SQL for a database administrator to read and run: the same statements as
//! [`super::install`] and [`super::capture`] run.

use std::fmt::Write as _;

use tokio_postgres::Client;

use super::error::CaptureError;
use super::schema::{CLOSE, FORMAT, STEPS};
use super::shape::Shape;
use super::triggers::Installation;
use crate::replication::catalog::Table;
use crate::replication::error::Error;
use crate::replication::literal;

/// Writes the script that puts `tables` under capture in a database without any, for `admin_user`.
///
/// It is run by whoever may grant what `admin_user` lacks, as a rule a superuser: rights are granted
/// first, what is made is made as `admin_user`, and only `ENABLE ALWAYS`, which needs the tables'
/// owner, is left to whoever runs it. Tables that cannot follow are named in comments.
///
/// # Errors
/// [`CaptureError::Sql`].
pub async fn script(
    client: &Client,
    tables: &[Table],
    admin_user: &str,
) -> Result<String, CaptureError> {
    let shapes = Shape::read(client, &tables.iter().collect::<Vec<_>>()).await?;
    let database = client.query_one("SELECT current_database()::text", &[]).await;
    let database: String =
        database.and_then(|row| row.try_get(0)).map_err(Error::sql("name the database"))?;
    let role = literal::identifier(admin_user);
    let mut grants =
        format!("GRANT CREATE ON DATABASE {} TO {role};\n", literal::identifier(&database));
    let mut always = String::new();
    let mut captured = String::new();
    let mut number = 1;
    for table in tables {
        let name = table.name.quoted();
        match shapes.get(&table.oid) {
            Some(Ok(shape)) => {
                line(&mut grants, &format!("GRANT SELECT, TRIGGER ON {name} TO {role}"));
                capture(&mut captured, &mut always, table, shape, number);
                number += 1;
            }
            Some(Err(why)) => {
                let _ = writeln!(captured, "-- {}: {why}.", table.name.to_string().escape_debug());
            }
            None => {}
        }
    }
    Ok(format!(
        "BEGIN;\nSET LOCAL search_path = pg_catalog, pg_temp;\nSET LOCAL lock_timeout = '5s';\n\
         {grants}SET LOCAL ROLE {role};\n\n{steps}\
         UPDATE pgtandem.meta SET format = {FORMAT}, next_number = {number};\n\n{captured}\n\
         {CLOSE}\nRESET ROLE;\n{always}COMMIT;\n",
        steps = STEPS.join("\n"),
    ))
}

/// Adds a statement. Writing to a string does not fail.
fn line(to: &mut String, sql: &str) {
    let _ = writeln!(to, "{sql};");
}

fn capture(sql: &mut String, always: &mut String, table: &Table, shape: &Shape, number: i32) {
    let installation = Installation::new(table, shape, number, 0);
    for function in &installation.functions {
        line(sql, &function.create());
    }
    for trigger in installation.triggers.iter().filter(|trigger| !trigger.is_copy) {
        line(sql, &trigger.create());
        line(always, &trigger.enable_always());
    }
    let name = |text: &str| literal::text(text);
    let key: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
    let leaves: Vec<String> = shape.leaves.iter().map(|leaf| leaf.oid.to_string()).collect();
    let registration = format!(
        "INSERT INTO pgtandem.tables \
             (number, relid, schema, name, key, fingerprint, inserts, leaves, since, columns)\n    \
         SELECT {number}, oid, {}, {}, {}, '{}', '{}', '{{{}}}', pg_current_snapshot(), relnatts\n    \
         FROM pg_class WHERE oid = {}",
        name(&table.name.schema),
        name(&table.name.name),
        name(&literal::array(key.into_iter().map(Some))),
        table.fingerprint(),
        shape.inserts.as_str(),
        leaves.join(","),
        table.oid,
    );
    line(sql, &registration);
}
