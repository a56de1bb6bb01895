//! What users of sqlx do, one line of output per check. Connects as libpq's environment says.
//!
//!     with_sqlx [listen]

use std::{fmt::Display, time::Duration};

use futures_util::{TryStreamExt, future::join_all};
use sqlx::{
    Connection, Executor, PgConnection, PgPool, QueryBuilder, Row,
    postgres::{PgConnectOptions, PgListener, PgPoolCopyExt, PgPoolOptions},
    types::{
        Json, Uuid,
        chrono::{DateTime, NaiveDate, Utc},
    },
};

const CLIENTS: u32 = 6;
const ROUNDS: i32 = 25;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn say(what: &str, value: impl Display) {
    println!("{what} {}", value.to_string().replace('\n', "\\n"));
}

/// Says how something failed.
fn fails<T>(what: &str, outcome: Result<T, sqlx::Error>) {
    match outcome {
        Ok(_) => say(what, "no error"),
        Err(sqlx::Error::Database(error)) => {
            say(what, format!("{} {}", error.code().unwrap_or_default(), error.message()));
        }
        Err(error) => say(what, format!("{error:?}")),
    }
}

async fn parameters(pool: &PgPool) -> Outcome {
    let sql = "select $1::text, $2::int4, $3::int8, $4::float8, $5::bool, $6::text, $7::bytea,
        $8::int4[], $9::text[], $10::jsonb, $11::date, $12::timestamptz, $13::uuid";
    for _ in 0..3 {
        let row = sqlx::query(sql)
            .bind("ü\n'\\")
            .bind(7_i32)
            .bind(1_i64 << 40)
            .bind(1.5_f64)
            .bind(true)
            .bind(None::<String>)
            .bind(&[0_u8, 1, 255][..])
            .bind(vec![Some(1_i32), None, Some(3)])
            .bind(vec!["a", "b\"", "c,d"])
            .bind(Json(vec![Some("eins"), None]))
            .bind(NaiveDate::from_ymd_opt(2024, 2, 29))
            .bind("2024-02-29T12:30:15.123456Z".parse::<DateTime<Utc>>()?)
            .bind(Uuid::parse_str("c0ffee00-0000-4000-8000-00000000beef")?)
            .fetch_one(pool)
            .await?;
        let shown = (
            row.get::<String, _>(0),
            row.get::<i32, _>(1),
            row.get::<i64, _>(2),
            row.get::<f64, _>(3),
            row.get::<bool, _>(4),
            row.get::<Option<String>, _>(5),
            row.get::<Vec<u8>, _>(6),
            row.get::<Vec<Option<i32>>, _>(7),
            row.get::<Vec<String>, _>(8),
            row.get::<Json<Vec<Option<String>>>, _>(9).0,
            row.get::<NaiveDate, _>(10),
            row.get::<DateTime<Utc>, _>(11),
        );
        say("parameters", format!("{shown:?} {}", row.get::<Uuid, _>(12)));
    }
    let big = "x".repeat(3_000_000);
    let query = sqlx::query_scalar::<_, String>("select $1::text").bind(&big);
    say("large value", query.fetch_one(pool).await? == big);
    Ok(())
}

async fn going_on_after_errors(connection: &mut PgConnection) -> Outcome {
    let divide = |by: i32| sqlx::query("select 1 / $1").bind(by);
    fails("division", divide(0).execute(&mut *connection).await);
    fails("no table", sqlx::query("table nowhere").execute(&mut *connection).await);
    fails("syntax", sqlx::query("selec 1").execute(&mut *connection).await);
    let insert =
        |id: i32, name| sqlx::query("insert into items values ($1, $2)").bind(id).bind(name);
    fails("insert", insert(1, Some("one")).execute(&mut *connection).await);
    fails("duplicate", insert(1, Some("again")).execute(&mut *connection).await);
    fails("not null", insert(2, None).execute(&mut *connection).await);
    let mut many = QueryBuilder::new("insert into items (id, name) ");
    many.push_values(100..110, |mut row, id| {
        row.push_bind(id).push_bind(format!("many {id}"));
    });
    say("many", many.build().execute(&mut *connection).await?.rows_affected());
    Ok(())
}

async fn transactions(connection: &mut PgConnection) -> Outcome {
    let mut transaction = connection.begin().await?;
    transaction.execute("insert into items values (11, 'eleven')").await?;
    let mut savepoint = transaction.begin().await?;
    fails("savepoint", savepoint.execute("insert into items values (11, 'twice')").await);
    fails("aborted", savepoint.execute("select 1").await);
    savepoint.rollback().await?;
    transaction.execute("insert into items values (13, 'thirteen')").await?;
    transaction.commit().await?;
    // Dropped: rolled back before whatever comes next.
    let mut dropped = connection.begin().await?;
    dropped.execute("delete from items").await?;
    drop(dropped);
    let count = sqlx::query_scalar::<_, i64>("select count(*) from items");
    say("rolled back", count.fetch_one(&mut *connection).await?);
    Ok(())
}

async fn many_clients(pool: &PgPool) -> Outcome {
    let wrong: Vec<i32> = join_all((0..6).map(|number| async move {
        let mut wrong = 0;
        for turn in 0..ROUNDS {
            let mut transaction = pool.begin().await?;
            let own = format!("select {number} * 1000 + $1");
            let own = sqlx::query_scalar::<_, i32>(&own).bind(turn);
            wrong += i32::from(own.fetch_one(&mut *transaction).await? != number * 1000 + turn);
            sqlx::query("update counters set value = value + 1 where id = $1")
                .bind(number)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            for shared in 0..5 {
                let sql = format!("select {shared} + $1");
                let sum = sqlx::query_scalar::<_, i32>(&sql).bind(turn).fetch_one(pool).await?;
                wrong += i32::from(sum != shared + turn);
            }
            if turn % 5 == 0 {
                let divided = sqlx::query("select 1 / $1").bind(0_i32).execute(pool).await;
                wrong += i32::from(divided.is_ok());
            }
        }
        Ok::<_, sqlx::Error>(wrong)
    }))
    .await
    .into_iter()
    .collect::<Result<_, _>>()?;
    let counters = sqlx::query_scalar::<_, i32>("select value from counters order by id");
    say("many clients", format!("{wrong:?} {:?}", counters.fetch_all(pool).await?));
    Ok(())
}

async fn streams(connection: &mut PgConnection) -> Outcome {
    let sql = "select n from generate_series(1, $1) n";
    let numbers = sqlx::query_scalar::<_, i32>(sql).bind(1000_i32).fetch(&mut *connection);
    let total = numbers.try_fold(0, |sum, number| async move { Ok(sum + number) }).await?;
    say("stream", total);
    let mut given_up = sqlx::query(sql).bind(10_000_i32).fetch(&mut *connection);
    say("given up", given_up.try_next().await?.is_some());
    drop(given_up);
    let several = connection.fetch_all("select 1; select 2; select 3").await?;
    say("several", several.len());
    Ok(())
}

async fn copies(pool: &PgPool) -> Outcome {
    let mut into = pool.copy_in_raw("copy lines from stdin").await?;
    for line in 0..2000 {
        into.send(format!("{line}\tline {line}\n").into_bytes()).await?;
    }
    say("copied in", into.finish().await?);
    let out = pool.copy_out_raw("copy lines to stdout").await?;
    let bytes = out.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) }).await?;
    say("copied out", bytes);
    let mut bad = pool.copy_in_raw("copy lines from stdin").await?;
    bad.send("no number\tx\n".as_bytes()).await?;
    fails("bad line", bad.finish().await);
    let given_up = pool.copy_in_raw("copy lines from stdin").await?;
    fails("given up", given_up.abort("enough").await);
    let count = sqlx::query_scalar::<_, i64>("select count(*) from lines");
    say("lines", count.fetch_one(pool).await?);
    Ok(())
}

async fn interruptions(connection: &mut PgConnection) -> Outcome {
    let mut transaction = connection.begin().await?;
    transaction.execute("set local statement_timeout = 50").await?;
    fails("statement_timeout", transaction.execute("select pg_sleep(600)").await);
    transaction.rollback().await?;
    // A connection that is dropped while it waits.
    let mut other = PgConnection::connect_with(&PgConnectOptions::new()).await?;
    let sleep = other.execute("select pg_sleep(600)");
    say("time-out", tokio::time::timeout(Duration::from_millis(200), sleep).await.is_err());
    drop(other);
    say("goes on", sqlx::query_scalar::<_, i32>("select 1").fetch_one(connection).await?);
    Ok(())
}

async fn settings() -> Outcome {
    let options =
        PgConnectOptions::new().application_name("a program").options([("IntervalStyle", "iso_8601")]);
    let mut connection = PgConnection::connect_with(&options).await?;
    for _ in 0..3 {
        let sql = "select current_setting('application_name') || current_setting('IntervalStyle')";
        say("settings", sqlx::query_scalar::<_, String>(sql).fetch_one(&mut connection).await?);
    }
    connection.close().await?;
    Ok(())
}

async fn notifications(pool: &PgPool) -> Outcome {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("news").await?;
    sqlx::query("select pg_notify('news', $1)").bind("first").execute(pool).await?;
    sqlx::query("notify news, 'second'").execute(pool).await?;
    for _ in 0..2 {
        say("notified", listener.recv().await?.payload());
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    let options = PgPoolOptions::new().max_connections(CLIENTS);
    let pool = options.connect_with(PgConnectOptions::new()).await?;
    let mut connection = PgConnection::connect_with(&PgConnectOptions::new()).await?;
    connection
        .execute(
            "create table items (id int primary key, name text not null);
            create table counters as select n as id, 0 as value from generate_series(0, 5) n;
            create table lines (id int, text text)",
        )
        .await?;
    parameters(&pool).await?;
    going_on_after_errors(&mut connection).await?;
    transactions(&mut connection).await?;
    many_clients(&pool).await?;
    streams(&mut connection).await?;
    copies(&pool).await?;
    interruptions(&mut connection).await?;
    settings().await?;
    for turn in 0..20 {
        let mut connection = PgConnection::connect_with(&PgConnectOptions::new()).await?;
        sqlx::query("select $1").bind(turn).execute(&mut connection).await?;
        connection.close().await?;
    }
    say("connections come and go", "ok");
    if std::env::args().any(|argument| argument == "listen") {
        notifications(&pool).await?;
    }
    pool.close().await;
    Ok(())
}
