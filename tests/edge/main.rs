//! Tests of the HTTP edge through real sockets: the limits of our server, and the behaviour of tiny_http's own server.

mod limits;
mod tiny_http_server;
