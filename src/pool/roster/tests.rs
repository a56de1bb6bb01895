//! Which servers are tried, and which backends go.

use std::time::Duration;

use super::*;
use crate::config::Config;

const PRIMARY: Standing = Standing { is_standby: false, is_read_only: false };
const STANDBY: Standing = Standing { is_standby: true, is_read_only: true };
const LONGEST: Duration = Duration::from_secs(15);

fn plan(hosts: &str, keys: &str) -> Plan {
    let text = format!("[databases.d]\nhost = \"{hosts}\"\n{keys}\n");
    let config = Config::parse(&text, "proxy.toml", &|_| None).unwrap();
    Plan::from(&config.databases["d"])
}

fn server(name: &str) -> Server {
    Server { host: Host::Tcp(name.to_owned()), port: 5432 }
}

fn place(last: u8) -> Place {
    Place::Tcp((IpAddr::from([127, 0, 0, last]), 5432).into())
}

struct Bench {
    roster: Roster,
    dead: DeadServers,
}

impl Bench {
    fn new(hosts: &str, keys: &str) -> Self {
        Self { roster: Roster::new(plan(hosts, keys)), dead: DeadServers::default() }
    }

    fn order(&self) -> String {
        self.roster.order(&self.dead).into_iter().map(|server| server.host.to_string()).collect()
    }

    fn note(&self, name: &str, standing: Option<Standing>) -> Noted {
        self.roster.note(&server(name), standing, &self.dead)
    }

    fn die(&self, name: &str) {
        self.dead.died(&server(name), LONGEST, Instant::now());
        self.note(name, None);
    }

    fn open(&self, name: &str, standing: Option<Standing>) -> Arc<Origin> {
        self.roster.opened(&server(name), &place(1), standing)
    }
}

#[test]
fn round_robin_goes_round() {
    let bench = Bench::new("a,b,c", "");
    let orders = [bench.order(), bench.order(), bench.order(), bench.order()];
    assert_eq!(orders, ["abc", "bca", "cab", "abc"]);
    bench.die("b");
    assert_eq!([bench.order(), bench.order(), bench.order()].concat(), "accaac");
    bench.die("a");
    bench.die("c");
    assert_eq!(bench.order().len(), 3, "if all are dead, all are tried");
    bench.dead.lives(&server("c"));
    assert_eq!(bench.order(), "c");
}

#[test]
fn the_first_good_one_sticks() {
    let bench = Bench::new("a,b,c", "load_balance_hosts = \"disable\"");
    assert_eq!([bench.order(), bench.order()], ["abc", "abc"]);
    bench.open("b", None);
    assert_eq!([bench.order(), bench.order()], ["bca", "bca"]);
    bench.die("b");
    assert_eq!(bench.order(), "ca");
    bench.open("c", None);
    bench.dead.lives(&server("b"));
    assert_eq!(bench.order(), "cab", "it does not go back by itself");
}

#[test]
fn known_roles_decide_who_is_tried_first() {
    let bench = Bench::new("a,b,c", "target_session_attrs = \"primary\"");
    bench.note("a", Some(STANDBY));
    bench.note("c", Some(PRIMARY));
    for _ in 0..6 {
        let order = bench.order();
        assert!(order.starts_with(['b', 'c']) && order.ends_with('a'), "{order}");
    }
    let bench = Bench::new("a,b,c", "target_session_attrs = \"standby\"");
    for (name, standing) in [("a", STANDBY), ("b", PRIMARY), ("c", STANDBY)] {
        bench.note(name, Some(standing));
    }
    let firsts: Vec<String> = (0..4).map(|_| bench.order()).collect();
    assert_eq!(firsts, ["acb", "cab", "acb", "cab"], "those that will do are used alike");
}

#[test]
fn a_server_that_becomes_something_else_loses_its_backends() {
    let bench = Bench::new("a,b", "target_session_attrs = \"standby\"");
    bench.note("a", Some(STANDBY));
    let (a, b) = (bench.open("a", Some(STANDBY)), bench.open("b", Some(STANDBY)));
    let noted = bench.note("a", Some(PRIMARY));
    assert_eq!(noted, Noted { was: Some(STANDBY), retired: 1 });
    assert!(a.is_retired() && !b.is_retired());
    assert_eq!(bench.note("a", Some(PRIMARY)), Noted::default(), "nothing new");
    let again = bench.open("a", Some(STANDBY));
    assert!(!Arc::ptr_eq(&a, &again));
}

#[test]
fn what_differs_from_role_to_role_is_no_change_of_the_server() {
    let bench = Bench::new("a", "target_session_attrs = \"read-write\"");
    let read_only = Standing { is_standby: false, is_read_only: true };
    let open = bench.open("a", Some(PRIMARY));
    bench.note("a", Some(PRIMARY));
    assert_eq!(bench.note("a", Some(read_only)), Noted::default());
    assert!(!open.is_retired());
}

#[test]
fn a_spare_is_kept_until_there_is_a_standby() {
    let bench = Bench::new("a,b", "target_session_attrs = \"prefer-standby\"");
    bench.die("b");
    let spare = bench.open("a", Some(PRIMARY));
    bench.note("a", Some(PRIMARY));
    assert!(!spare.is_retired());
    bench.dead.lives(&server("b"));
    assert_eq!(bench.note("b", Some(STANDBY)).retired, 1);
    assert!(spare.is_retired());
    assert_eq!(bench.order(), "ba");
}

#[test]
fn a_reload_retires_what_is_not_listed_any_more() {
    let bench = Bench::new("a,b", "");
    let (a, b) = (bench.open("a", Some(STANDBY)), bench.open("b", Some(PRIMARY)));
    assert!(!bench.roster.follow(plan("a,b", ""), &bench.dead));
    assert!(bench.roster.follow(plan("b,c", ""), &bench.dead));
    assert!(a.is_retired() && !b.is_retired());
    assert!(bench.open("a", None).is_retired(), "it was being opened meanwhile");
    bench.roster.follow(plan("b,c", "target_session_attrs = \"standby\""), &bench.dead);
    assert!(b.is_retired(), "it is not what is wanted now");
}

#[test]
fn addresses_that_a_name_has_lost_are_left() {
    let bench = Bench::new("a,b", "");
    let one = bench.roster.opened(&server("a"), &place(1), None);
    let two = bench.roster.opened(&server("a"), &place(2), None);
    let other = bench.roster.opened(&server("b"), &place(1), None);
    assert!(Arc::ptr_eq(&two, &bench.roster.opened(&server("a"), &place(2), None)));
    assert_eq!(bench.roster.hosts_in_use().len(), 2);
    let host = Host::Tcp("a".to_owned());
    assert_eq!(bench.roster.note_addresses(&host, &[IpAddr::from([127, 0, 0, 2])]), 1);
    assert!(one.is_retired() && !two.is_retired() && !other.is_retired());
}

#[test]
fn what_is_lost_is_lost_since_it_was_noticed_first() {
    let bench = Bench::new("a", "");
    let began = Instant::now();
    assert_eq!(bench.roster.lost(began), began);
    assert_eq!(bench.roster.lost(began + LONGEST), began);
    bench.roster.found();
    assert_eq!(bench.roster.lost_since(), None);
}
