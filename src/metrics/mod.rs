//! What is measured: plain counters that workers add to, and every metric's name, unit and labels.
//!
//! [`cells`] are one worker's share of what one pool has done; nobody else touches them, so an
//! addition is all that counting costs. They are copied and summed when somebody asks: for the
//! console, and for [`exposition`], which shows what [`table`] lists.

pub mod cells;
pub mod exposition;
pub mod histogram;
pub mod labels;
pub mod process;
pub mod replication;
pub mod table;
