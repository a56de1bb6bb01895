//! Another client of the same pool, who does much of what leaves something behind, and must neither
//! see nor be seen.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::generate::{Dice, Keeps};
use crate::support::{
    let_pass,
    login::{Address, Login},
    message::*,
    reply::Reply,
    wire::Client,
};

/// How long a client of the queue may have to wait for those in front of it to finish.
const LONGEST: Duration = Duration::from_mins(2);

/// Comes and goes until `is_over`.
///
/// # Panics
/// If it gets anything else than it would from a server of its own.
pub fn interfere(address: &Address, login: &Login, keeps: Keeps, is_over: &AtomicBool) {
    let mut dice = Dice::new(0);
    while !is_over.load(Ordering::Relaxed) {
        // In session mode its turn comes when somebody leaves.
        let mut visitor = Visitor { client: login.begin(address), is_over };
        if visitor.answers(1).is_none() {
            return;
        }
        let turns = match keeps {
            Keeps::Transaction => 20,
            Keeps::Session => 1,
        };
        for turn in 0..turns {
            if visitor.turn(&format!("visitor {turn}")).is_none() {
                return;
            }
            let_pass(Duration::from_millis(3));
        }
        // Goes in the middle of a transaction, or at the end of one.
        if dice.roll(2) == 0 {
            visitor
                .client
                .send(&[query("begin; set datestyle = 'SQL'"), parse("half", "select 1")]);
        }
    }
}

struct Visitor<'a> {
    client: Client,
    is_over: &'a AtomicBool,
}

impl Visitor<'_> {
    /// Some transactions; `None` if the time is over.
    fn turn(&mut self, name: &str) -> Option<()> {
        self.expect(
            &[query(&format!("set application_name = '{name}'")), query("show datestyle")],
            "C SET | Z I | T | D ISO, MDY | C SHOW | Z I",
        )?;
        self.expect(
            &[
                close_statement("a"),
                parse("a", &format!("select '{name}'")),
                parse("", "select 'unnamed'"),
                sync(),
            ],
            "3 | 1 | 1 | Z I",
        )?;
        self.expect(
            &[bind("", "a"), execute(""), bind("p", ""), execute("p"), sync()],
            &format!("2 | D {name} | C SELECT 1 | 2 | D unnamed | C SELECT 1 | Z I"),
        )?;
        self.expect(
            &[query("begin; set local timezone = 'Asia/Tokyo'"), bind("", "nowhere"), sync()],
            "C BEGIN | C SET | Z T | E 26000 | Z E",
        )?;
        self.expect(
            &[query("rollback"), query("show timezone; show application_name")],
            &format!(
                "C ROLLBACK | Z I | \
                 T | D UTC | C SHOW | T | D {name} | C SHOW | Z I"
            ),
        )
    }

    /// Sends these messages and compares what comes.
    fn expect(&mut self, messages: &[Bytes], expected: &str) -> Option<()> {
        let wanted = messages.iter().filter(|message| b"QS".contains(&message[0])).count();
        self.client.send(messages);
        assert_eq!(self.answers(wanted)?, expected, "what the interfering client got");
        Some(())
    }

    /// Everything up to the `wanted`th ReadyForQuery but ParameterStatus, which comes where the version of
    /// the server has it come.
    fn answers(&mut self, wanted: usize) -> Option<String> {
        let (mut got, mut ready) = (Vec::new(), 0);
        let mut silent = Duration::ZERO;
        while ready < wanted {
            let step = Duration::from_millis(100);
            let Some(reply) = self.client.reply_within(step) else {
                silent += step;
                if self.is_over.load(Ordering::Relaxed) {
                    return None;
                }
                assert!(silent < LONGEST, "the interfering client got {got:?}, and nothing more");
                continue;
            };
            ready += usize::from(reply.tag() == b'Z');
            let is_end = reply == Reply::Eof;
            if reply.tag() != b'S' {
                got.push(reply.to_string());
            }
            if is_end {
                break;
            }
        }
        Some(got.join(" | "))
    }
}
