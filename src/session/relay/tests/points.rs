//! Scripts for the points of the acceptance list that can be seen at this level.

use super::*;

mod copy;
mod extended;
mod statements;

/// Uses a statement once, in a segment of its own.
fn run(name: &'static str) -> Burst {
    vec![Bind("", name, "x"), Execute("", 0), Sync]
}

/// Prepares a statement and uses it.
fn prepare(name: &'static str, sql: &'static str) -> Burst {
    let mut burst = vec![Parse(name, sql), DescribeStatement(name)];
    burst.extend(run(name));
    burst
}

fn pool(limit: usize, clients: usize, backends: usize) -> Pool {
    Pool::new(StatementRules::Rename { limit }, clients, backends, Dice::All)
}

fn go(pool: &mut Pool, client: usize, burst: &[Message]) {
    pool.plan(client, 0, burst);
    pool.run();
}
