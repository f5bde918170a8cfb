//! Random numbers that nobody can guess: getrandom(2). For seeds and for names that must differ at each start of a
//! process. Whoever needs many draws, or the same ones again, seeds [`Random`](crate::raft::Random) with one.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// 64 random bits.
///
/// # Errors
/// When the system has none to give: it is older than getrandom(2), or forbids it.
pub fn random_u64() -> Result<u64, String> {
    let mut bytes = [0; 8];
    loop {
        // Up to 256 bytes come whole or not at all.
        match getrandom(&mut bytes, GetRandomFlags::empty()) {
            Ok(_) => return Ok(u64::from_ne_bytes(bytes)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(format!("the system gives no randomness: {error}")),
        }
    }
}
