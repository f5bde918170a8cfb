//! Tests of a node's disk: the form of its files, a crash in the middle of each write, and every kind of damage.

mod corruption;
mod crash;
#[path = "../simulation/disk.rs"]
mod disk;
mod format;
