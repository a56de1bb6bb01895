use crate::support::{fixture::Fixture, message::*};
#[test]
fn zz_shrink() {
    let f = Fixture::start(|c| c.general("default_pool_size = 3"));
    for pieces in [0usize, 1, 7, 13] {
        for pre in 0..3 {
            for tail in 0..4 {
                let mut a = f.connect();
                a.run(&[parse("b", "select 1"), sync()]);
                if pre == 1 { a.run(&[parse("", "select 1"), bind_values("", "b", &["v"]), sync()]); }
                if pre == 2 { a.query("set application_name = 'x'"); }
                if pre == 0 { a.run(&[execute("q"), parse("b", "selec"), sync()]); }
                if pre == 1 { a.run(&[execute("q"), bind("p", "b"), sync()]); }
                if pre == 2 { a.run(&[execute("q"), sync()]); }
                let m = match tail {
                    0 => vec![execute(""), parse("d", "select 1"), sync()],
                    1 => vec![execute(""), describe_portal("q"), execute(""), parse("d", "select 1"), sync()],
                    2 => vec![bind("", "nope"), parse("d", "select 1"), sync()],
                    _ => vec![parse("", "selec"), parse("d", "select 1"), sync()],
                };
                if pieces == 0 { a.run(&m); } else { a.send_in_pieces(&m, pieces); a.ready(1); }
                let r = a.run(&[bind("", "d"), sync()]);
                eprintln!("pieces {pieces} pre {pre} tail {tail}: {r}");
            }
        }
    }
    panic!("show");
}
