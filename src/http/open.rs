//! An open connection, as three see it: the thread that serves it (`connection.rs`), the server that ends it
//! (`server.rs`), and a handler that asks whether its client is still there (`message.rs`).

use rustix::net::{RecvFlags, recv};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

/// An open connection. The descriptor closes when the last holder lets go.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// True while the connection waits for the first byte of a request and nobody would miss it.
    pub(super) idle: AtomicBool,
}

impl Open {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr) -> Open {
        Open { stream, peer, idle: AtomicBool::new(true) }
    }

    /// Wakes the thread of a connection that waits for a request; it still serves one that has arrived meanwhile,
    /// since what the kernel holds is read before the end is seen. A connection in the middle of a request is left.
    pub(super) fn end_if_idle(&self) {
        if self.idle.load(Ordering::SeqCst) {
            // It may have been closed by the other side; then there is nothing to wake.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
    }

    /// Cuts the connection off, whatever it is doing.
    pub(super) fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    pub(super) fn peer_has_closed(&self) -> bool {
        let mut byte = [0_u8; 1];
        match recv(&self.stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, received)) => received == 0,
            Err(error) => error != rustix::io::Errno::AGAIN && error != rustix::io::Errno::INTR,
        }
    }
}
