//! What `rakit check` finds at the servers: which are dead, which have no worker, and whether each worker answers from here.

use std::net::SocketAddr;
use std::thread;

use rakit::http::client::{CallErrorKind, Client, ClientTimeouts};
use rakit::protocol::ServerStatus;

use super::super::asking::{ANSWER_TIMEOUT, reason};
use super::super::comparison::{Asked, freshest, in_flight};
use super::Remark;

/// The question to a worker: the smallest computation.
const FIRST_PRIME: &str = "/1";
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1_024;

/// Looks at the servers of the newest table.
pub fn look(answers: &[Asked]) -> Vec<Remark> {
    let Some(status) = freshest(answers) else { return Vec::new() };
    if status.servers.is_empty() {
        return vec![Remark::finding(
            "no server has reported yet",
            "start a daemon and a worker; if they run, see the daemon's log",
        )];
    }
    // All at once: each may keep its questioner waiting.
    thread::scope(|scope| {
        let asked: Vec<_> = status
            .servers
            .iter()
            .map(|server| (server, scope.spawn(|| look_at(server, in_flight(answers, &server.id)))))
            .collect();
        let failed = |server: &ServerStatus| Remark::Note(format!("{}: asking it failed", server.id));
        asked.into_iter().map(|(server, thread)| thread.join().unwrap_or_else(|_| failed(server))).collect()
    })
}

fn look_at(server: &ServerStatus, in_flight: usize) -> Remark {
    if !server.alive {
        return Remark::finding(
            format!("server {} is dead: its daemon does not report", server.id),
            "start its daemon; if it runs, see its log",
        );
    }
    if server.drained {
        return Remark::finding(
            format!("server {} is drained by order: it gets no requests", server.id),
            format!("when it may work again: rakit servers undrain {}", server.id),
        );
    }
    if !server.worker_up {
        return Remark::finding(
            format!("server {} has no worker: nothing listens at {}", server.id, server.worker),
            "start worker.py there, or give its daemon the right --worker; for a worker behind address translation, \
             --worker-check connect",
        );
    }
    match answer(server, in_flight) {
        Remark::Fine(_) if !server.cpu_known => Remark::finding(
            format!("server {}: its load is not known, so it is chosen last", server.id),
            "see the log of its daemon, which says what it cannot read",
        ),
        remark => remark,
    }
}

fn answer(server: &ServerStatus, in_flight: usize) -> Remark {
    let (id, worker): (&str, SocketAddr) = (&server.id, server.worker);
    let mut client = Client::new(ClientTimeouts {
        connect: ANSWER_TIMEOUT,
        send: ANSWER_TIMEOUT,
        receive: ANSWER_TIMEOUT,
    });
    match client.get(worker, FIRST_PRIME, &[], ANSWER_BYTES_MAX) {
        Ok(answer) if answer.status == 200 && answer.body.trim_ascii() == b"2" => {
            Remark::Fine(format!("server {id}: its worker at {worker} answers"))
        }
        Ok(answer) if answer.status == 503 => {
            Remark::Note(format!("server {id}: its worker at {worker} is busy"))
        }
        Ok(answer) => Remark::finding(
            format!("server {id}: what listens at {worker} is no worker: GET /1 gave {}", answer.status),
            "see which program listens there (ss -ltnp), and start worker.py or give the daemon the right --worker",
        ),
        // A worker of one request at a time lets everybody wait.
        Err(error)
            if in_flight > 0
                && !matches!(error.kind, CallErrorKind::Refused | CallErrorKind::Unreachable(_)) =>
        {
            Remark::Note(format!(
                "server {id}: its worker at {worker} has {in_flight} requests and no time for this one"
            ))
        }
        Err(error) => Remark::finding(
            format!("server {id}: its worker at {worker} does not answer this machine: {}", reason(&error)),
            "open its port in the firewall for the nodes; if only they may reach it, ask again from a node's machine",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::comparison::tests::{answers, refusing, status};
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn each_server_has_one_remark() {
        let (_keeps_the_port, address) = refusing([127, 83, 9, 7]);
        let mut one = status(1);
        one.servers[0].worker = address;
        let said = |status| look(&answers(vec![Ok(status)]))[0].line();
        assert!(said(one.clone()).contains("does not answer this machine: connection refused"));
        one.servers[0].worker_up = false;
        assert!(said(one.clone()).contains("has no worker"));
        one.servers[0].alive = false;
        assert!(said(one.clone()).contains("is dead"));
        one.servers.clear();
        assert!(said(one).contains("no server has reported"));
        assert!(look(&answers(vec![Err("connection refused".into())])).is_empty(), "nobody knows any server");
    }

    #[test]
    fn something_else_at_the_address_is_told_from_a_worker() {
        let server = tiny_http::Server::http("127.83.9.7:0").expect("loopback has a free port");
        let mut one = status(1).servers.remove(0);
        one.worker = server.server_addr().to_ip().expect("an IP address");
        let says = Mutex::new((200, "2\n"));
        thread::scope(|scope| {
            scope.spawn(|| {
                for request in server.incoming_requests() {
                    let (status, body) = *says.lock().expect("no holder panics");
                    // Who has waited too long has gone.
                    let _ = request.respond(tiny_http::Response::from_string(body).with_status_code(status));
                }
            });
            // On a machine that stands still, the answer may come too late. Then it is asked again.
            let look = |server: &ServerStatus, status, body| {
                *says.lock().expect("no holder panics") = (status, body);
                let late = |remark: &Remark| remark.line().contains("does not answer this machine");
                (0..30).map(|_| look_at(server, 0)).find(|remark| !late(remark))
            };
            let unknown = ServerStatus { cpu_known: false, ..one.clone() };
            let looks = [
                look(&one, 200, "2\n"),
                look(&unknown, 200, "2\n"),
                look(&one, 503, "busy"),
                look(&one, 200, "hello"),
            ];
            server.unblock();
            let [worker, unknown, busy, other] = looks.map(|remark| remark.expect("an answer"));
            assert!(matches!(worker, Remark::Fine(_)), "{worker:?}");
            assert!(unknown.line().contains("its load is not known"), "{unknown:?}");
            assert!(matches!(busy, Remark::Note(_)), "{busy:?}");
            assert!(other.line().contains("is no worker: GET /1 gave 200"), "{other:?}");
        });
    }
}
