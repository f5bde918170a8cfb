//! The control room of a local cluster: the address of `rakit up` itself, on loopback only.
//!
//! `session.rs` opens it; `rakit ctl` and a browser on this machine talk to it. It takes one [`Order`] per request, hands it
//! to the main thread, which carries it out (`steering.rs`), and answers what has been done.
//!
//! Who may steer: whoever can read `DIR/control.json` (mode 0600), where the token is. A page of another site that a browser
//! on this machine has open can't: it does not know the token, and `Host` and `Origin` must be this address (a name that
//! somebody lets point at 127.0.0.1 has another `Host`).

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use rakit::http::foreign::is_this_machine;
use rakit::http::message::{Request, Response, header, json, text};
use rakit::http::{Limits, Server, Service};
use rakit::linux::random_u64;
use rakit::node::page;
use rakit::protocol::path;
use serde::{Deserialize, Serialize};
use tiny_http::Method;

use super::Failure;
use super::layout::{Layout, shown};
use super::lookout::Lookout;
use super::order::Order;

/// Where orders go.
pub const ORDER_PATH: &str = "/ui/order";
/// The header with the token.
pub const TOKEN_HEADER: &str = "X-Rakit-Token";
/// The longest order, in bytes.
const ORDER_BYTES_MAX: usize = 4 * 1024;
/// The most connections at once: a browser or two, and `rakit ctl`.
const CONNECTIONS_MAX: usize = 32;
/// How long an order may take. A process that is told to stop has less time than that.
pub const ORDER_TIMEOUT: Duration = Duration::from_secs(30);

/// What was done, or why not; one line each.
pub type Done = Result<String, String>;

/// Hands an order to the main thread, with a channel for the outcome. False if nobody takes it.
pub type Deliver = dyn Fn(Order, Sender<Done>) -> bool + Send + Sync;

/// `DIR/control.json`: where the control room is, and the token.
#[derive(Debug, Serialize, Deserialize)]
pub struct Key {
    /// The address of the control room.
    pub address: SocketAddr,
    /// Who knows it may steer.
    pub token: String,
}

/// The open control room; closed when it is dropped.
#[derive(Debug)]
pub struct ControlRoom {
    _server: Server,
    layout: Layout,
    /// What a person opens in a browser, with the token.
    pub page: String,
}

impl ControlRoom {
    /// Listens, and writes `DIR/control.json`.
    ///
    /// # Errors
    /// The address can't be listened on, the file can't be written, or the system gives no randomness.
    pub fn open(
        layout: &Layout,
        lookout: Arc<Lookout>,
        deliver: impl Fn(Order, Sender<Done>) -> bool + Send + Sync + 'static,
    ) -> Result<ControlRoom, Failure> {
        let draw = || random_u64().map_err(Failure::other);
        let key = Key { address: layout.control_room(), token: format!("{:016x}{:016x}", draw()?, draw()?) };
        let page = format!("http://{}/#token={}", key.address, key.token);
        let service = ControlService { key, lookout, deliver: Box::new(deliver) };
        write_key(layout, &service.key)?;
        let limits = Limits { connections_max: CONNECTIONS_MAX, ..Limits::default() };
        let address = service.key.address;
        let server = Server::bind("control", address, limits, Arc::new(service)).map_err(|error| {
            Failure::other(format!("can't listen on {address}, the control room: {error}"))
        })?;
        Ok(ControlRoom { _server: server, layout: layout.clone(), page })
    }
}

impl Drop for ControlRoom {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.layout.control_file());
    }
}

fn write_key(layout: &Layout, key: &Key) -> Result<(), Failure> {
    let path = layout.control_file();
    let mut text = serde_json::to_string(key).expect("an address and a text are JSON");
    text.push('\n');
    // Made anew, so that the mode holds from the first byte on. Nobody else makes it: `rakit up` holds the lock of DIR.
    let _ = fs::remove_file(&path);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    made.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Failure::other(format!("{}: can't be written: {error}", shown(&path))))
}

/// The paths that show something.
fn is_read(path: &str) -> bool {
    matches!(path, path::USAGE | path::PAGE_STATE) || page::is_part(path)
}

struct ControlService {
    key: Key,
    lookout: Arc<Lookout>,
    deliver: Box<Deliver>,
}

impl Service for ControlService {
    fn body_limit(&self, method: &Method, path: &str) -> Result<usize, Response> {
        match (path, method) {
            (ORDER_PATH, Method::Post) => Ok(ORDER_BYTES_MAX),
            (ORDER_PATH, _) => Err(text(405, "only POST").with_header(header("Allow", "POST"))),
            (path, Method::Get | Method::Head) if is_read(path) => Ok(0),
            (path, _) if is_read(path) => {
                Err(text(405, "only GET and HEAD").with_header(header("Allow", "GET, HEAD")))
            }
            _ => Err(text(404, "this is the control room of a local cluster: try `rakit ctl --help`")),
        }
    }

    fn call(&self, request: Request) -> Response {
        if let Err(why) = self.is_from_here(&request) {
            return text(403, why);
        }
        match request.path() {
            ORDER_PATH => {}
            path::PAGE_STATE => return json(200, &self.lookout.state()),
            path::USAGE if page::is_for_browser(&request) => return page::frame(),
            path => {
                return page::part(path).unwrap_or_else(|| {
                    text(200, "the control room of a local cluster of Rakit: a browser shows its page; or try `rakit ctl --help`")
                });
            }
        }
        if request.header(TOKEN_HEADER) != Some(&self.key.token) {
            return text(403, "the token of control.json is missing or is another");
        }
        match serde_json::from_slice(&request.body) {
            Ok(order) => self.carry_out(order),
            Err(error) => text(400, &format!("not an order: {error}")),
        }
    }
}

impl ControlService {
    /// Whether the request was meant for this address, and not sent by a page of another site.
    fn is_from_here(&self, request: &Request) -> Result<(), &'static str> {
        let port = self.key.address.port();
        let own = |name: &str| is_this_machine(name, port);
        if !request.header("Host").is_some_and(own) {
            return Err("the Host is not this address");
        }
        match request.header("Origin") {
            Some(origin) if !origin.strip_prefix("http://").is_some_and(own) => {
                Err("a page of another site may not steer this cluster")
            }
            _ => Ok(()),
        }
    }

    fn carry_out(&self, order: Order) -> Response {
        let (outcome, waits) = bounded(1);
        if !(self.deliver)(order, outcome) {
            return text(503, "the cluster is stopping");
        }
        match waits.recv_timeout(ORDER_TIMEOUT) {
            Ok(Ok(done)) => text(200, &done),
            Ok(Err(why)) => text(409, &why),
            Err(_) => text(503, "the order was not carried out in time, or the cluster is stopping"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ControlService {
        let key = Key { address: SocketAddr::from(([127, 0, 0, 1], 8000)), token: "0123".to_string() };
        let deliver = |order: Order, outcome: Sender<Done>| outcome.send(Ok(format!("{order:?}"))).is_ok();
        let layout = Layout { dir: std::path::PathBuf::new(), nodes: 1, servers: 0, base_port: 8000 };
        let lookout =
            Arc::new(Lookout::start(&layout.public_nodes(), layout.parts().collect()).expect("a thread"));
        ControlService { key, lookout, deliver: Box::new(deliver) }
    }

    fn post(headers: &[(&'static str, &str)], body: &str) -> u16 {
        let headers = headers.iter().map(|(name, value)| header(name, value)).collect();
        let request = Request::local(Method::Post, ORDER_PATH, headers, body.as_bytes().to_vec());
        service().call(request).status_code().0
    }

    const RESUME: &str = r#"{"order":"resume","name":"node-1"}"#;

    #[test]
    fn who_knows_the_token_and_means_this_address_may_steer() {
        let (host, token) = (("Host", "127.0.0.1:8000"), (TOKEN_HEADER, "0123"));
        assert_eq!(post(&[host, token], RESUME), 200);
        assert_eq!(
            post(&[("Host", "localhost:8000"), token, ("Origin", "http://localhost:8000")], RESUME),
            200
        );
        assert_eq!(post(&[host], RESUME), 403, "no token");
        assert_eq!(post(&[host, (TOKEN_HEADER, "0124")], RESUME), 403);
        assert_eq!(post(&[("Host", "evil.example:8000"), token], RESUME), 403, "a name that points here");
        assert_eq!(post(&[token], RESUME), 403, "no Host");
        assert_eq!(post(&[host, token, ("Origin", "http://evil.example")], RESUME), 403);
        assert_eq!(post(&[host, token, ("Origin", "null")], RESUME), 403);
        assert_eq!(post(&[host, token], "{}"), 400);
    }

    #[test]
    fn everybody_on_this_machine_may_look_and_a_page_of_another_site_may_not() {
        let get = |headers: &[(&'static str, &str)], path: &str| {
            let headers = headers.iter().map(|(name, value)| header(name, value)).collect();
            service().call(Request::local(Method::Get, path, headers, Vec::new()))
        };
        let (host, browser) = (("Host", "127.0.0.1:8000"), ("Accept", "text/html"));
        let kind = |answer: &Response| {
            answer
                .headers()
                .iter()
                .find(|one| one.field.equiv("Content-Type"))
                .map(|one| one.value.to_string())
        };
        assert_eq!(kind(&get(&[host, browser], "/")).as_deref(), Some("text/html; charset=utf-8"));
        assert_eq!(kind(&get(&[host], "/")).as_deref(), Some("text/plain; charset=utf-8"));
        assert_eq!(kind(&get(&[host], "/ui/state")).as_deref(), Some("application/json"));
        assert_eq!(kind(&get(&[host], "/ui/control.js")).as_deref(), Some("text/javascript; charset=utf-8"));
        assert_eq!(get(&[("Host", "evil.example:8000"), browser], "/ui/state").status_code().0, 403);
    }

    #[test]
    fn only_orders_are_posted() {
        let limit =
            |method, path| service().body_limit(&method, path).map_err(|answer| answer.status_code().0);
        assert_eq!(limit(Method::Post, ORDER_PATH), Ok(ORDER_BYTES_MAX));
        assert_eq!(limit(Method::Get, ORDER_PATH), Err(405));
        assert_eq!((limit(Method::Get, "/ui/state"), limit(Method::Post, "/ui/state")), (Ok(0), Err(405)));
        assert_eq!(limit(Method::Get, "/elsewhere"), Err(404));
    }
}
