//! What this project asks of Linux and the standard library does not offer, each in one place: who listens on which
//! port, a lock that ends with its process, random numbers of the system, a clock that a restart does not reset, which
//! addresses are this machine's. Used by the programs, `storage` and `signing`.

mod boot_clock;
mod entropy;
#[cfg(test)]
pub(crate) mod let_go;
mod lock;
mod own_address;
mod sock_diag;
mod sockets;

pub use boot_clock::{BootClock, BootMoment};
pub use entropy::random_u64;
pub use lock::{FileLock, LockError};
pub use own_address::is_own_address;
pub use sock_diag::ListeningSocket;
pub use sockets::{Holder, all_sockets, holder, listening_on, listening_on_port, listening_sockets};
