//! A node's disk: the form of its files, every crash in the middle of a write, and every kind of damage.

mod corruption;
mod crash;
#[path = "../simulation/disk.rs"]
mod disk;
mod format;
