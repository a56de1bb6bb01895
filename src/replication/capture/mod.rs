//! Capture on the primary: triggers that write each change into the change log, in the client's own
//! transaction.
//!
//! What is installed is a schema `pgtandem` with the log, and per table one trigger function and one
//! trigger for each of INSERT, UPDATE, DELETE and TRUNCATE. It needs no superuser: the role that
//! installs it needs CREATE on the database, and for each table its ownership, or SELECT and TRIGGER.
//! Nobody else needs a right on anything in it, or has one.
//!
//! # A row of the log
//!
//! `id, xid, rel, op, key, new, leaf, was, now`; see `sql/step_1.sql`. Values are texts as the
//! output functions print them under pinned settings, see [`shape::Pin`].
//!
//! | op | key | new | was, now |
//! |---|---|---|---|
//! | `I` | of the row | the row, as a composite literal | `now`, unless captured by statement |
//! | `U` | before | the row after | both |
//! | `D` | of the row | | `was` |
//! | `T` | | | |
//!
//! Of two transactions that change one row, the ids of the later are greater: it draws them after the
//! other's commit has freed the row. Within a transaction ids are *not* always in the order of the
//! changes: a statement's rows are logged when it ends, and a trigger or function that it calls may
//! have changed some of them before. So every change by a row trigger names the version of the row
//! that it replaced and the one that it made (`ctid`, with the partition's oid in `leaf`), which
//! makes the net effect of a transaction independent of order: rows whose version was made and not
//! replaced are there afterwards, rows whose version was replaced and not made were there before.
//!
//! # How inserts are captured
//!
//! By a statement trigger on the transition table where that is safe: an ordinary table on which
//! nobody else has a trigger that could change rows in the middle of the statement. By a row trigger
//! elsewhere. What is left is an INSERT that itself calls a function which changes rows that the same
//! INSERT has made: their changes come before their insertion then, which whoever applies them
//! refuses (the secondary is paused); it is never applied wrongly.
//!
//! # Partitioned tables, inheritance
//!
//! Row triggers on the root have copies on all partitions, also on those that come later, and log
//! under the root; a row that moves is a `D` and an `I`. TRUNCATE of one partition is logged as `D`
//! of its rows. Tables that inherit are tables of their own.

//! # What it costs
//!
//! Measured on PostgreSQL 15 without fsync, as CPU time of one backend without a network (the least of
//! many short interleaved runs; the machine was shared): an UPDATE takes 21 µs, its capture 14 µs more;
//! an INSERT of one row 7 µs and 12 µs more; a row of an INSERT … SELECT into six columns with two
//! indexes 2.4 µs and 2.6 µs more, 8 µs more by row trigger.
//!
//! Of the capture of an UPDATE a fifth is starting the statement in the executor, a seventh the log's
//! heap, an eighth the index on `xid`, each of the row's text and the sequence less than a tenth. To pin
//! `search_path` would cost 5 µs, `DateStyle` 1.5 µs, `TimeZone` 2 µs: each table pins only those that its
//! types print with. An IF in the body that pins only for sessions that have other settings costs as much
//! as the pin.
//!
//! Times vary with the machine, instructions do not (`bench/replication.py --cases instructions` counts 448,000
//! for a transaction of TPC-B without capture, and 742,000 with it; one backend in single-user mode). In a
//! schema written by hand, with other sizes: of the 296,000 that the four changes of a transaction of TPC-B take more,
//! beside 540,000, and of the 24,500 of a row of an INSERT … SELECT, beside 25,100, another form of the log
//! would save:
//!
//! | instead | a transaction | a row in bulk |
//! |---|---|---|
//! | functions that do nothing | 227,000 | |
//! | at least: four columns, no index, the row's text alone | 106,000 | 11,100 |
//! | no index on `xid` | 44,000 | 6,600 |
//! | a BRIN index on it | 12,000 | 4,100 |
//! | seven columns: no `op`, no `leaf`, the key as text; no key in bulk | 27,000 | 1,600 |
//! | the position of the WAL for the sequence | 6,000 | 2,500 |
//! | inserts without their key | 2,000 | 1,100 |
//! | no `SECURITY DEFINER`, so that whoever writes could forge | 2,000 | |
//! | many rows of a statement in one of the log, as an array | −38,000 | 1,500 |
//!
//! So what can be left out safely (fewer columns, the position) gains a tenth for single rows and a sixth in
//! bulk; see decision 58 in ARCHITECTURE.md.
//!
//! With many clients, whose code and plans are not in the processor's caches, it is more: TPC-B with eight
//! clients on two cores takes 235 to 275 µs of CPU more for the four changes of a transaction, beside 636
//! µs (prepared) and 913 µs (simple). A good third of that is the calls of the four functions: they cost
//! it when they do nothing.
//!
//! Where nothing is pinned, a session that changes its `search_path` between two writes has the
//! statement planned anew, as those of foreign keys are.

pub mod check;
pub mod error;
pub mod installed;
pub mod mend;
pub mod rotation;
pub mod schema;
pub mod script;
pub mod shape;
pub mod skipped;
pub mod table;
pub mod triggers;

pub use check::{Finding, Trouble, check};
pub use error::CaptureError;
pub use rotation::{Excess, Limits, Tended, restart, stop, tend};
pub use schema::{Meta, install, uninstall};
pub use script::script;
pub use shape::Refusal;
pub use skipped::{Nature, Skipped, skipped};
pub use table::{Captured, capture, release};
