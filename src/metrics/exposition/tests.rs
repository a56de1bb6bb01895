use super::*;
use crate::metrics::labels::{ClientEnd, Label as _, SqlClass};

fn labels(database: &str, user: &str) -> PoolLabels {
    PoolLabels { database: database.to_owned(), user: user.to_owned() }
}

/// A pool that the configuration names.
fn named(worker: usize, pool: u32, database: &str) -> Share {
    Share {
        worker,
        pool,
        names: labels(database, "u"),
        configured: labels(database, "u"),
        is_proven: true,
        cells: Cells::default(),
        states: States::default(),
        size: 20,
        reserve: 5,
        hindered: Hindered::default(),
    }
}

fn automatic(pool: u32, database: &str) -> Share {
    Share { configured: labels(ANY, "u"), ..named(0, pool, database) }
}

fn snapshot(shares: Vec<Share>) -> Snapshot {
    let up = WorkerSample { is_up: true, ..WorkerSample::default() };
    Snapshot { shares, workers: vec![up, up], ..Snapshot::default() }
}

fn value(text: &str, series: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[track_caller]
fn check(text: &str, series: &str, expected: impl Into<Option<f64>>) {
    let found = value(text, series).map(f64::to_bits);
    assert_eq!(found, expected.into().map(f64::to_bits), "{series} in\n{text}");
}

#[test]
fn what_is_configured_is_there_at_0() {
    let mut exposition = Exposition::default();
    let configured = BTreeSet::from([labels("app", "alice")]);
    let text = exposition.render(Snapshot { configured, ..snapshot(vec![]) });
    let pool = r#"database="app",user="alice""#;
    for class in SqlClass::ALL {
        let class = class.as_str();
        let series = format!("pgtandem_errors_total{{{pool},origin=\"pooler\",class=\"{class}\"}}");
        check(&text, &series, 0.0);
    }
    check(&text, &format!("pgtandem_query_seconds_bucket{{{pool},le=\"0.0001\"}}"), 0.0);
    check(&text, &format!("pgtandem_query_seconds_count{{{pool}}}"), 0.0);
    check(&text, r#"pgtandem_logins_total{outcome="authentication"}"#, 0.0);
    check(&text, r#"pgtandem_worker_cpu_seconds_total{worker="1"}"#, 0.0);
    check(&text, "process_cpu_seconds_total", 0.0);
}

#[test]
fn workers_add_up_and_histograms_are_exact() {
    let mut exposition = Exposition::default();
    let mut shares = vec![named(0, 7, "app"), named(1, 7, "app")];
    for took_us in [90, 150, 700_000_000] {
        shares[0].cells.query.record(took_us);
    }
    shares[1].cells.query.record(200);
    shares[1].cells.client_ends.add(ClientEnd::Lost);
    shares[0].states.clients_idle = 3;
    shares[1].states.clients_idle = 4;
    let text = exposition.render(snapshot(shares));
    let pool = r#"database="app",user="u""#;
    let bucket = |le: &str| format!("pgtandem_query_seconds_bucket{{{pool},le=\"{le}\"}}");
    check(&text, &bucket("0.0001"), 1.0);
    check(&text, &bucket("0.00025"), 3.0);
    check(&text, &bucket("300"), 3.0);
    check(&text, &bucket("+Inf"), 4.0);
    check(&text, &format!("pgtandem_query_seconds_sum{{{pool}}}"), 700.000_44);
    check(&text, &format!("pgtandem_query_seconds_count{{{pool}}}"), 4.0);
    check(&text, &format!("pgtandem_client_disconnects_total{{{pool},reason=\"lost\"}}"), 1.0);
    check(&text, &format!("pgtandem_clients{{{pool},state=\"idle\"}}"), 7.0);
    check(&text, &format!("pgtandem_pool_size{{{pool}}}"), 20.0);
}

#[test]
fn counters_only_grow() {
    let mut exposition = Exposition::default();
    let series = r#"pgtandem_client_binds_total{database="app",user="u"}"#;
    let mut share = named(0, 1, "app");
    share.cells.statements.binds = 5;
    check(&exposition.render(snapshot(vec![share.clone()])), series, 5.0);
    // The worker is busy: nobody knows more than before.
    let mut silent = snapshot(vec![]);
    silent.workers[0].is_up = false;
    let text = exposition.render(silent);
    check(&text, series, 5.0);
    check(&text, r#"pgtandem_worker_up{worker="0"}"#, 0.0);
    check(&text, r#"pgtandem_worker_up{worker="1"}"#, 1.0);
    share.cells.statements.binds = 6;
    check(&exposition.render(snapshot(vec![share.clone()])), series, 6.0);
    // Another pool of the same names, with counters of its own.
    let mut other = named(0, 2, "app");
    other.cells.statements.binds = 2;
    check(&exposition.render(snapshot(vec![other])), series, 8.0);
}

#[test]
fn what_is_gone_is_not_shown() {
    let mut exposition = Exposition::default();
    let series = |of: &str| format!("pgtandem_client_binds_total{{database=\"{of}\",user=\"u\"}}");
    let mut share = named(0, 1, "old");
    share.cells.statements.binds = 5;
    let text = exposition.render(snapshot(vec![share.clone(), named(0, 2, "app")]));
    check(&text, &series("old"), 5.0);
    let text = exposition.render(snapshot(vec![named(0, 2, "app")]));
    assert!(!text.contains("old"), "{text}");
    check(&text, &series("app"), 0.0);
    let mut again = named(0, 3, "old");
    again.cells.statements.binds = 1;
    check(&exposition.render(snapshot(vec![again])), &series("old"), 1.0);
}

#[test]
fn clients_cannot_make_series_without_end() {
    let mut exposition = Exposition::default();
    let unproven = Share { is_proven: false, ..automatic(0, "made up") };
    let text = exposition.render(snapshot(vec![unproven]));
    check(&text, r#"pgtandem_pool_size{database="*",user="u"}"#, 20.0);
    assert!(!text.contains("made up"));
    let many = |count: u32| (1..=count).map(|n| automatic(n, &format!("db{n}"))).collect();
    exposition.render(snapshot(many(1000)));
    assert_eq!(exposition.pools.len(), AUTOMATIC_MAX + 1);
    let text = exposition.render(snapshot(many(1000)));
    assert_eq!(exposition.pools.len(), AUTOMATIC_MAX + 1);
    check(&text, r#"pgtandem_pool_size{database="*",user="u"}"#, 20.0 * 800.0);
    check(&text, r#"pgtandem_pool_size{database="db1",user="u"}"#, 20.0);
    // A place that is free is for somebody else.
    exposition.render(snapshot(vec![automatic(2000, "new")]));
    assert_eq!(exposition.pools.keys().map(|labels| &labels.database).collect::<Vec<_>>(), ["new"]);
    assert_eq!(exposition.seen.len(), 1);
}

#[test]
fn a_pool_that_gets_labels_of_its_own_takes_nothing_along() {
    let mut exposition = Exposition::default();
    let mut share = Share { is_proven: false, ..automatic(0, "db") };
    share.cells.statements.binds = 3;
    let mut other = Share { is_proven: false, ..automatic(1, "not there") };
    other.cells.statements.binds = 1;
    exposition.render(snapshot(vec![share.clone(), other.clone()]));
    share.is_proven = true;
    share.cells.statements.binds = 5;
    let text = exposition.render(snapshot(vec![share, other]));
    check(&text, r#"pgtandem_client_binds_total{database="*",user="u"}"#, 4.0);
    check(&text, r#"pgtandem_client_binds_total{database="db",user="u"}"#, 2.0);
}

#[test]
fn names_cannot_break_the_format() {
    let mut exposition = Exposition::default();
    let names = ["a\"b", "a\\", "a\\\\", "a\nb", "100%", "a\u{7f}é"];
    let pools: Vec<_> = (0..).zip(names).map(|(n, name)| named(0, n, name)).collect();
    let text = exposition.render(snapshot(pools));
    for name in ["a%22b", "a%5C", "a%5C%5C", "a%0Ab", "100%25", "a%7Fé"] {
        check(&text, &format!("pgtandem_pool_size{{database=\"{name}\",user=\"u\"}}"), 20.0);
        check(&text, &format!("pgtandem_query_seconds_sum{{database=\"{name}\",user=\"u\"}}"), 0.0);
    }
}

#[test]
fn tables_keep_to_the_rules() {
    fn check<S>(table: &[Metric<S>]) {
        let mut names: Vec<&str> = table.iter().map(|metric| metric.name).collect();
        names.dedup();
        let together = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), together, "rows of one name are not together");
        for metric in table {
            let name = metric.name;
            let is_counter = matches!(
                metric.reading,
                Reading::Counter(_) | Reading::Counters(..) | Reading::Seconds(_)
            );
            assert_eq!(is_counter, name.ends_with("_total"), "{name}");
            let is_histogram = matches!(metric.reading, Reading::Histogram(_));
            assert!(!is_histogram || name.ends_with("_seconds"), "{name}");
            assert!(name.starts_with("pgtandem_") || name.starts_with("process_"), "{name}");
            assert!(metric.help.ends_with('.') && metric.help.len() < 100, "{name}");
        }
    }
    check(POOL);
    check(WORKER);
    check(PROCESS);
}
