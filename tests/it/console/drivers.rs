//! Real clients at the console: psql, psycopg, asyncpg, pgjdbc, and PgBouncer's exporter.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use crate::support::{
    cluster::free_port,
    drivers::{python, run_java, run_python},
    fixture::Fixture,
    login::Address,
    poll,
    tools::{Running, psql, successful, tool},
};

use super::{fixture, with_console};

fn port(fixture: &Fixture) -> String {
    let Address::Tcp(port) = fixture.proxy.tcp() else { unreachable!("tcp() is TCP") };
    port.to_string()
}

#[test]
fn psql_shows_and_explains() {
    let fixture =
        Fixture::start(|config| with_console(config).general("admin_users = \"postgres\""));
    for address in [fixture.proxy.tcp(), fixture.proxy.unix()] {
        let shown = psql(&address, "pgbouncer", "SHOW POOLS;\nshow databases; SHOW VERSION;");
        assert!(shown.contains("pgbouncer|pgbouncer|1|0|"), "{shown}");
        assert!(shown.contains(&format!("{}|127.0.0.1|", fixture.database)), "{shown}");
        assert!(shown.ends_with(&format!("pgtandem {}\n", env!("CARGO_PKG_VERSION"))), "{shown}");
        assert!(psql(&address, "pgtandem", "\\conninfo\n").contains("\"postgres\""));
    }
    let mut command = tool("psql", &fixture.proxy.tcp(), "pgtandem");
    let output = command.args(["-X", "-c", "show help"]).output().expect("psql is installed");
    let notice = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        notice.contains("NOTICE:  Console usage") && notice.contains("KILL_CLIENT"),
        "{notice}"
    );
    successful(output);
}

#[test]
fn psycopg_looks_around_in_its_transactions() {
    let fixture = fixture();
    let dsn = format!("host=127.0.0.1 port={} user=admin dbname=pgbouncer", port(&fixture));
    run_python("psycopg_console.py", &[&dsn]);
}

#[test]
fn asyncpg_prepares_and_reads_binary() {
    let fixture = fixture();
    let (port, database) = (port(&fixture), &fixture.database);
    run_python("asyncpg_console.py", &["127.0.0.1", &port, "admin", database]);
}

#[test]
fn pgjdbc_looks_around_in_every_query_mode() {
    let fixture = fixture();
    let url = format!("jdbc:postgresql://127.0.0.1:{}/pgbouncer", port(&fixture));
    assert_eq!(run_java("JdbcConsole.java", &[&url, "admin"]), "ok\n");
}

#[test]
fn pgbouncers_exporter_scrapes_unchanged() {
    let fixture = fixture();
    assert_eq!(fixture.connect().value("select 1"), "1");
    let exporter_port = free_port();
    let config = fixture.proxy.file("exporter.yml");
    let dsn = format!("postgresql://stats:@127.0.0.1:{}/pgbouncer", port(&fixture));
    let text = format!("exporter_port: {exporter_port}\npgbouncers:\n  - dsn: {dsn}\n");
    std::fs::write(&config, text).expect("the folder is ours");
    let mut command = python("pgbouncer-exporter");
    command.arg("--config").arg(&config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _exporter = Running::start(&mut command);
    let mut scraped = String::new();
    poll("the exporter answers", || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", exporter_port)) else { return false };
        scraped.clear();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_to_string(&mut scraped).is_ok()
            && scraped.contains("pgbouncer_up")
    });
    let database = &fixture.database;
    for line in [
        "pgbouncer_up 1.0".to_owned(),
        format!("pgbouncer_stats_queries_total{{database=\"{database}\"}} 1.0"),
        format!("pgbouncer_stats_transactions_total{{database=\"{database}\"}} 1.0"),
        format!(
            "pgbouncer_pools_server_idle_connections{{database=\"{database}\",user=\"postgres\"}} 1.0"
        ),
        format!(
            "pgbouncer_pools_client_maxwait_seconds{{database=\"{database}\",user=\"postgres\"}} 0.0"
        ),
        format!(
            "pgbouncer_databases_database_pool_size{{backend_database=\"{database}\",\
             database=\"{database}\"}} 1.0"
        ),
        "pgbouncer_config_max_client_conn 10000.0".to_owned(),
        "pgbouncer_config_max_user_connections 0.0".to_owned(),
    ] {
        let is_there = scraped.lines().any(|scraped| scraped == line);
        assert!(is_there, "{line} is not in\n{scraped}");
    }
}
