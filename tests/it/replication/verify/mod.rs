//! Comparing and repairing a secondary, while everybody writes.

mod difference;
mod life;
mod load;
mod pair;
mod repair;
mod supervised;
