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
//! Measured on PostgreSQL 15 without fsync, as CPU time of the server processes, since the machine
//! was shared; capture on against off, medians of four to five interleaved runs: 100,000-row INSERT or
//! COPY into six columns with two indexes 2.0 times by statement trigger, 4.3 times by row trigger;
//! TPC-B 1.3 times (simple protocol) to 1.6 times (prepared). Of a captured row in bulk, about a
//! quarter is printing it, a quarter the index on `xid`, a tenth the key. A setting that a function
//! pins costs about half a microsecond per call, so each table pins only those that its types print
//! with.

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
