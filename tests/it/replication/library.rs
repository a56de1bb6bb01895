//! Parts of the library against a real server.

use std::sync::Arc;
use std::time::Duration;

use pgtandem::replication::catalog::{self, Identity, Kind, Selection};
use pgtandem::replication::connect::{Target, connect};
use pgtandem::replication::literal;
use pgtandem::replication::snapshot::Snapshot;
use tokio_postgres::Client;

use crate::support::cluster::Cluster;

fn with_client<T>(database: &str, work: impl AsyncFnOnce(Client) -> T) -> T {
    let cluster = Cluster::shared();
    let target = Target {
        servers: Arc::new([cluster.server()]),
        is_primary: true,
        dbname: database.to_owned(),
        user: "postgres".to_owned(),
        password: None,
        timeout: Duration::from_secs(10),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .expect("a runtime")
        .block_on(async { work(connect(&target).await.expect("the superuser is trusted")).await })
}

#[test]
fn snapshots_see_what_postgresql_says() {
    let mut random = 12_345_u64;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    with_client("postgres", async |client| {
        for _ in 0..100 {
            let xmin = 3 + next(20);
            let xmax = xmin + next(20);
            let list: Vec<String> =
                (xmin..xmax).filter(|_| next(3) == 0).map(|xid| xid.to_string()).collect();
            let text = format!("{xmin}:{xmax}:{}", list.join(","));
            let snapshot: Snapshot = text.parse().expect("it is one");
            let sql = "SELECT array_agg(pg_visible_in_snapshot(x::text::xid8, $1::text::pg_snapshot) \
                       ORDER BY x), $1::text::pg_snapshot::text FROM generate_series(1, 50) x";
            let row = client.query_one(sql, &[&text]).await.expect("it runs");
            let expected: Vec<bool> = row.get(0);
            let found: Vec<bool> = (1..=50).map(|xid| snapshot.sees(xid)).collect();
            assert_eq!(found, expected, "{text}");
            assert_eq!(snapshot.to_string(), row.get::<_, String>(1));
        }
    });
}

#[test]
fn literals_mean_what_they_say() {
    let nasty = [
        "",
        "a",
        "'",
        "''",
        "\\",
        "\\\\'",
        "\"",
        "{}",
        "NULL",
        "null",
        " ",
        "a,b",
        "(x)",
        "ü漢😀",
        "\n\t\r",
        "$1",
        "%s",
        "e'x",
        "\\x41",
    ];
    with_client("postgres", async |client| {
        for value in nasty {
            let sql = format!("SELECT {}", literal::text(value));
            let row = client.query_one(&sql, &[]).await.expect("it runs");
            assert_eq!(row.get::<_, String>(0), value);
            if !value.is_empty() {
                let sql = format!("SELECT 1 AS {}", literal::identifier(value));
                let row = client.query_one(&sql, &[]).await.expect("it runs");
                assert_eq!(row.columns()[0].name(), value);
            }
        }
        let list: Vec<Option<&str>> = nasty.iter().map(|v| Some(*v)).chain([None]).collect();
        let sql = "SELECT $1::text::text[], ROW(VARIADIC_PLACEHOLDER)::text";
        let fields: Vec<String> = list
            .iter()
            .map(|v| v.map_or("NULL".to_owned(), |v| format!("{}::text", literal::text(v))))
            .collect();
        let sql = sql.replace("VARIADIC_PLACEHOLDER", &fields.join(", "));
        let row = client.query_one(&sql, &[&literal::array(list.clone())]).await.expect("it runs");
        assert_eq!(row.get::<_, Vec<Option<&str>>>(0), list);
        let read = literal::fields(row.get(1)).expect("a composite");
        assert_eq!(read.iter().map(Option::as_deref).collect::<Vec<_>>(), list);
    });
}

#[test]
fn the_catalog_is_understood() {
    let database = Cluster::shared().new_database();
    let schema = "
        CREATE TABLE a (gone int, id int NOT NULL, x varchar(10) COLLATE \"C\", \"Y\" numeric(5,2)[],
            g int GENERATED ALWAYS AS (id * 2) STORED, i bigint GENERATED ALWAYS AS IDENTITY);
        ALTER TABLE a DROP COLUMN gone;
        CREATE UNIQUE INDEX a_partial ON a (x) WHERE x <> '';
        CREATE UNIQUE INDEX a_id ON a (id) INCLUDE (x);
        CREATE TABLE b (id int PRIMARY KEY DEFERRABLE);
        CREATE TABLE p (id int, at date, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
        CREATE TABLE p1 PARTITION OF p DEFAULT;
        INSERT INTO p SELECT i, '2024-01-01' FROM generate_series(1, 1000) i; ANALYZE;
        CREATE UNLOGGED TABLE u (id int PRIMARY KEY); CREATE TEMP TABLE x (id int PRIMARY KEY);
        CREATE VIEW v AS SELECT 1";
    with_client(&database, async |client| {
        client
            .batch_execute(
                &schema
                    .replace("CREATE TABLE ", "CREATE TABLE public.")
                    .replace("TABLE a", "TABLE public.a")
                    .replace("ON a", "ON public.a")
                    .replace("OF p", "OF public.p")
                    .replace("INTO p", "INTO public.p")
                    .replace("UNLOGGED TABLE u", "UNLOGGED TABLE public.u")
                    .replace("VIEW v", "VIEW public.v"),
            )
            .await
            .expect("it runs");
        let all = Selection::new(&["*.*".to_owned()], &[]);
        let tables = catalog::tables(&client, &all).await.expect("it is understood");
        let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
        assert_eq!(names, ["public.a", "public.b", "public.p"]);
        let [a, b, p] = &tables[..] else { unreachable!("three tables") };
        let key = a.key.as_ref().expect("a_id");
        assert_eq!((key.index.as_str(), &key.columns[..]), ("a_id", &[0][..]));
        assert_eq!(key.equality, ["OPERATOR(pg_catalog.=)"]);
        assert!(a.has_other_unique);
        let types: Vec<&str> = a.columns.iter().map(|c| c.type_sql.as_str()).collect();
        assert_eq!(
            types,
            ["integer", "character varying(10)", "numeric(5,2)[]", "integer", "bigint"]
        );
        let generated: Vec<bool> = a.columns.iter().map(|c| c.generated).collect();
        assert_eq!(generated, [false, false, false, true, false]);
        assert_eq!(a.columns[4].identity, Identity::Always);
        assert_eq!(a.columns[1].collation.as_deref(), Some("\"C\""));
        assert!(b.key.is_none() && b.has_other_unique);
        assert_eq!((p.kind, p.rows_estimate), (Kind::Partitioned, 1000));
        assert_eq!(p.key.as_ref().expect("the primary key").columns, [1, 0]);
        assert!(!p.has_other_unique && p.bytes > 0);
        assert_eq!(a.fingerprint().len(), 32);
        assert_ne!(a.fingerprint(), p.fingerprint());
    });
}
