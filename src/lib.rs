//! Rakit: a load balancer made of several nodes that agree, by their own Raft, on how busy each server is and
//! whether it lives. This library holds everything that more than one program or test needs.
//!
//! The arrows point one way: the programs (`rakit`, `rakit-node`, `rakit-daemon`) use [`replica`], [`storage`], [`signing`]
//! (which stands on [`http`] and [`protocol`]) and these two; [`replica`] and [`protocol`] stand on [`balancer`], and all of
//! them on [`raft`], which knows nobody.

pub mod balancer;
pub mod config;
pub mod http;
pub mod linux;
pub mod logging;
pub mod plays;
pub mod program;
pub mod protocol;
pub mod raft;
pub mod replica;
pub mod signing;
pub mod storage;

// The rooms `node/` and `daemon/` stand at the top level of the project, but are compiled once, as part of this
// library: the programs `rakit-node` and `rakit-daemon` are thin doors to them, and `rakit up` starts *itself* as
// `rakit node` and `rakit daemon`, so that the cluster it runs is always of the very build that was asked for.
#[path = "../daemon/daemon.rs"]
pub mod daemon;
#[path = "../node/node.rs"]
pub mod node;
