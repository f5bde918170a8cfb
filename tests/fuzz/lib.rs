//! The targets, for the programs in `fuzz_targets/`.

mod memory_disk;
pub mod targets;
