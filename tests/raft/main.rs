//! The Raft core, alone: no socket, no file, no thread. Each file looks at it in another way.
//!
//! | file | asks |
//! | --- | --- |
//! | `transcripts.rs`, `scripts/` | what happens in this case? One readable script for each rule |
//! | `plays.rs`, `plays/` | the same steps with sentences, recorded for `rakit play` and the page |
//! | `paper.rs`, `thesis.rs` | does the rule hold over a whole range of cases? By section of the paper and the thesis |
//! | `joining.rs` | how do nodes without memory become members that count? |
//! | `members.rs` | how do members change, one at a time? |
//! | `limits.rs` | what if time, terms or sizes reach their bounds? |
//! | `properties.rs` | does a random schedule break a property? A failing one shrinks to a small case |
//! | `explore.rs` | does any schedule at all break one? Every interleaving up to a depth |
//!
//! `harness/` is the one driver of the core that all of them use.

mod explore;
mod harness;
mod joining;
mod limits;
mod members;
mod paper;
mod plays;
mod properties;
mod thesis;
mod transcripts;
