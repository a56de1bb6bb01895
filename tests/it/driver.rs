//! A driver people use: tokio-postgres with prepared statements, pipelining, COPY and cancel
//! tokens.

use std::{future::Future, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    future::{join_all, poll_fn},
};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls, error::SqlState, types::ToSql};

use crate::support::{PATIENCE, fixture::Fixture, login::Address, poll};

/// Runs a program of the driver with a deadline.
fn drive<T>(program: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        tokio::time::timeout(3 * PATIENCE, program).await.expect("the program ends in time")
    })
}

async fn connect(fixture: &Fixture) -> Client {
    let Address::Tcp(port) = fixture.proxy.tcp() else { unreachable!("tcp() is TCP") };
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(port)
        .user("postgres")
        .dbname(&fixture.database)
        .connect(NoTls)
        .await
        .expect("the proxy trusts us");
    tokio::spawn(connection);
    client
}

#[test]
fn prepared_statements_of_many_connections() {
    let fixture = Fixture::start(|config| {
        config.general("default_pool_size = 2").general("max_prepared_statements = 3")
    });
    drive(async {
        let clients = join_all((0..8).map(|_| connect(&fixture))).await;
        let work = clients.iter().zip(0_i64..).map(|(client, number)| async move {
            let add = client.prepare("select $1::int8 + $2::int8").await.expect("it parses");
            for round in 0..50_i64 {
                let own = format!("select {round}::int8 * $1::int8");
                let own = client.prepare(&own).await.expect("it parses");
                let row = client.query_one(&own, &[&number]).await.expect("it runs");
                assert_eq!(row.get::<_, i64>(0), round * number);
                let row = client.query_one(&add, &[&number, &round]).await.expect("it runs");
                assert_eq!(row.get::<_, i64>(0), number + round);
            }
        });
        join_all(work).await;
    });
}

#[test]
fn notifications_of_many_connections() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    drive(async {
        let sender = connect(&fixture).await;
        let mut clients = join_all((0..30).map(|_| connect_listening(&fixture))).await;
        for (client, _) in &clients {
            client.batch_execute("listen news").await.expect("it listens");
        }
        for number in 0..100 {
            let number = number.to_string();
            sender.execute("select pg_notify('news', $1)", &[&number]).await.expect("it runs");
        }
        let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let listeners = clients.iter_mut().map(|(client, heard)| async move {
            let mut numbers = Vec::new();
            while numbers.len() < 100 {
                let row = client.query_one("select 1", &[]).await.expect("it runs");
                assert_eq!(row.get::<_, i32>(0), 1);
                numbers.push(heard.recv().await.expect("it is connected"));
            }
            numbers
        });
        for numbers in join_all(listeners).await {
            assert_eq!(numbers, expected);
        }
    });
}

/// Connects, and passes on what is notified.
async fn connect_listening(fixture: &Fixture) -> (Client, mpsc::Receiver<String>) {
    let Address::Tcp(port) = fixture.proxy.tcp() else { unreachable!("tcp() is TCP") };
    let (client, mut connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(port)
        .user("postgres")
        .dbname(&fixture.database)
        .connect(NoTls)
        .await
        .expect("the proxy trusts us");
    let (sender, receiver) = mpsc::channel(1000);
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let Ok(AsyncMessage::Notification(notification)) = message {
                // Whoever has heard enough has gone.
                let _ = sender.send(notification.payload().to_owned()).await;
            }
        }
    });
    (client, receiver)
}

#[test]
fn pipelined_queries_of_one_connection() {
    let fixture = Fixture::transaction();
    drive(async {
        let (client, other) = (connect(&fixture).await, connect(&fixture).await);
        let double = client.prepare("select $1::int8 * 2").await.expect("it parses");
        for _ in 0..5 {
            // All of these are on their way before the first is answered.
            let queries = (0..100_i64).map(|number| {
                let (client, double) = (&client, &double);
                async move { client.query_one(double, &[&number]).await.map(|row| row.get(0)) }
            });
            let (answers, _) = tokio::join!(join_all(queries), other.simple_query("select 1"));
            let answers: Result<Vec<i64>, _> = answers.into_iter().collect();
            let expected: Vec<i64> = (0..100).map(|number| number * 2).collect();
            assert_eq!(answers.expect("none fails"), expected);
        }
    });
}

#[test]
fn pipelined_errors_hit_their_own_query() {
    let fixture = Fixture::transaction();
    drive(async {
        let client = connect(&fixture).await;
        let divide = client.prepare("select 100 / $1::int4").await.expect("it parses");
        let queries = (0..20_i32).map(|number| {
            let (client, divide, divisor) = (&client, &divide, number % 4);
            async move { (divisor, client.query_one(divide, &[&divisor]).await) }
        });
        for (divisor, answer) in join_all(queries).await {
            match answer {
                Ok(row) => assert_eq!(row.get::<_, i32>(0), 100 / divisor),
                Err(error) => {
                    assert_eq!((divisor, error.code()), (0, Some(&SqlState::DIVISION_BY_ZERO)));
                }
            }
        }
    });
}

#[test]
fn transactions_and_savepoints() {
    let fixture = Fixture::transaction();
    drive(async {
        let (mut client, other) = (connect(&fixture).await, connect(&fixture).await);
        client.batch_execute("create table t (x int)").await.expect("it runs");
        let mut transaction = client.transaction().await.expect("it begins");
        transaction.execute("insert into t values ($1)", &[&1_i32]).await.expect("it runs");
        let savepoint = transaction.transaction().await.expect("a savepoint");
        let failure = savepoint.execute("insert into nowhere values (1)", &[]).await;
        assert_eq!(failure.expect_err("no such table").code(), Some(&SqlState::UNDEFINED_TABLE));
        savepoint.rollback().await.expect("back to the savepoint");
        transaction.commit().await.expect("it commits");
        let dropped = client.transaction().await.expect("it begins");
        dropped.execute("insert into t values ($1)", &[&2_i32]).await.expect("it runs");
        drop(dropped);
        let row = other.query_one("select count(*) from t", &[]).await.expect("it runs");
        assert_eq!(row.get::<_, i64>(0), 1);
    });
}

#[test]
fn portals_are_read_in_parts() {
    let fixture = Fixture::transaction();
    drive(async {
        let mut client = connect(&fixture).await;
        let transaction = client.transaction().await.expect("it begins");
        let portal =
            transaction.bind("select generate_series(1, 10)", &[]).await.expect("it binds");
        let mut sizes = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, 4).await.expect("it runs");
            sizes.push(rows.len());
            if rows.len() < 4 {
                break;
            }
        }
        assert_eq!(sizes, [4, 4, 2]);
    });
}

#[test]
fn copies_in_both_directions() {
    let fixture = Fixture::transaction();
    drive(async {
        let (client, other) = (connect(&fixture).await, connect(&fixture).await);
        client.batch_execute("create table t (x int, y text)").await.expect("it runs");
        let mut sink = pin!(client.copy_in("copy t from stdin").await.expect("it begins"));
        for number in 0..2000 {
            let line = format!("{number}\t{}\n", "y".repeat(500));
            sink.as_mut().send(Bytes::from(line)).await.expect("it is taken");
        }
        assert_eq!(sink.as_mut().finish().await.expect("it ends"), 2000);
        let mut stream = pin!(other.copy_out("copy t to stdout").await.expect("it begins"));
        let mut bytes = 0;
        while let Some(chunk) = stream.next().await {
            bytes += chunk.expect("no error").len();
        }
        assert_eq!(
            bytes,
            (0..2000).map(|number: i32| number.to_string().len() + 502).sum::<usize>()
        );
        // Given up in the middle: nothing of it stays, and the connection goes on.
        {
            let mut sink = pin!(client.copy_in("copy t from stdin").await.expect("it begins"));
            sink.as_mut().send(Bytes::from_static(b"1\tone\n")).await.expect("it is taken");
        }
        let row = client.query_one("select count(*) from t", &[]).await.expect("it runs");
        assert_eq!(row.get::<_, i64>(0), 2000);
    });
}

#[test]
fn cancel_tokens_cancel() {
    let fixture = Fixture::transaction();
    drive(async {
        let client = connect(&fixture).await;
        let token = client.cancel_token();
        for _ in 0..5 {
            let running = client.query("select pg_sleep(600)", &[]);
            let cancelling = async {
                while !fixture.is_running("pg_sleep") {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                token.cancel_query(NoTls).await.expect("the request is taken");
            };
            let (failure, ()) = tokio::join!(running, cancelling);
            assert_eq!(failure.expect_err("cancelled").code(), Some(&SqlState::QUERY_CANCELED));
            let row = client.query_one("select 1", &[]).await.expect("the connection lives");
            assert_eq!(row.get::<_, i32>(0), 1);
        }
    });
}

#[test]
fn parameters_of_many_types() {
    let fixture = Fixture::transaction();
    drive(async {
        let client = connect(&fixture).await;
        let bytes = vec![0_u8, 1, 255];
        let list = vec![1_i32, 2, 3];
        let nothing: Option<&str> = None;
        let sql = "select $1::text, $2::bytea, $3::int4[], $4::float8, $5::bool, $6::text";
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&"ü\n'", &bytes, &list, &1.5_f64, &true, &nothing];
        let row = client.query_one(sql, &parameters).await.expect("it runs");
        assert_eq!(row.get::<_, &str>(0), "ü\n'");
        assert_eq!(row.get::<_, Vec<u8>>(1), bytes);
        assert_eq!(row.get::<_, Vec<i32>>(2), list);
        assert_eq!(row.get::<_, Option<&str>>(5), None);
    });
}

#[test]
fn connections_come_and_go() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    drive(async {
        for _ in 0..10 {
            let clients = join_all((0..10).map(|_| connect(&fixture))).await;
            let queries = clients.iter().map(|client| client.query_one("select 1", &[]));
            assert!(join_all(queries).await.iter().all(Result::is_ok));
        }
    });
    assert!(fixture.backends() <= 2);
    poll("nobody is left behind", || fixture.connect().query("select 1").len() == 4);
}
