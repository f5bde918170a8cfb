//! Rakit: a load balancer made of several nodes that agree, by their own Raft, on how busy each server is and
//! whether it lives. This library holds everything that more than one program or test needs.
//!
//! The arrows point one way. The programs (`rakit`, `rakit-node`, `rakit-daemon`) use all that stands here. [`config`]
//! stands on [`signing`], [`signing`] on [`http`] and [`protocol`], [`protocol`] and [`replica`] on [`balancer`].
//! These, but not [`http`], stand on [`raft`], and so do [`storage`] and [`plays`]. [`raft`] knows nobody, nor do
//! [`linux`] and [`logging`], which every room but [`raft`] may use.

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
