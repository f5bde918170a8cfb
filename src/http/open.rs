//! An open connection. Three share it: the thread that serves it (`connection.rs`), the server that ends it
//! (`server.rs`), and a handler that asks whether its client is still there (`message.rs`).

use rustix::net::{RecvFlags, recv};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

/// An open connection. The descriptor closes when the last holder drops it.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// True while the connection waits for the first byte of a request: it may be closed without loss.
    pub(super) idle: AtomicBool,
}

impl Open {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr) -> Open {
        Open { stream, peer, idle: AtomicBool::new(true) }
    }

    /// Ends a connection that waits for a request: it wakes the thread. A request that has arrived meanwhile
    /// is still served, since the thread reads the received bytes before the end. A connection with a request
    /// stays open.
    pub(super) fn end_if_idle(&self) {
        if self.idle.load(Ordering::SeqCst) {
            // An error means that the other side has closed it: then there is nothing to wake.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
    }

    /// Whether it waits for a request of which no byte has come.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst) && !self.has_unread_bytes()
    }

    /// Whether bytes have come that nobody has read yet.
    pub(super) fn has_unread_bytes(&self) -> bool {
        let mut byte = [0_u8; 1];
        recv(&self.stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)
            .is_ok_and(|(_, count)| count > 0)
    }

    /// Ends the connection at once, also in the middle of a request.
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
