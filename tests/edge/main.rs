//! The HTTP edge, through real sockets: our server's limits, and what tiny_http's own server does instead.

mod limits;
mod tiny_http_server;
