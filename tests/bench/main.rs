//! Measurements that are run by hand: each is `#[ignore]`d, and prints figures instead of judging them.

mod http_edge;
#[path = "../system/programs/mod.rs"]
mod programs;
mod reports;
