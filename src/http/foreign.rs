//! Tells what a web page of another site may have sent through somebody's browser.
//!
//! A browser sends a page's requests to any address that its user can reach, also to addresses that the page's
//! author cannot reach. If the body has one of the types that forms have, the browser sends it without asking the
//! service first. It says in `Origin` where the page came from (Fetch standard, "CORS-safelisted request-header" and
//! "Origin header"). So a service that changes something on a POST refuses both. Called by the node's cluster address,
//! and by what a node and `rakit up` let be steered from this machine.

use std::net::{IpAddr, SocketAddr};

use super::message::{Request, Response, text};

/// The answer to a request that no program of a cluster sends: 403 if it has an `Origin` of another site, 415 if
/// its body is not `application/json`. A request without a Content-Type is refused as well. `None`: it is
/// acceptable.
pub fn refusal(request: &Request) -> Option<Response> {
    if let Some(origin) = request.header("Origin")
        && !is_own(origin, request.header("Host"))
    {
        return Some(text(
            403,
            "this request has the Origin of another site; web pages have no business here",
        ));
    }
    if !request.header("Content-Type").is_some_and(is_json) {
        let mend = "the body must be JSON and say so; add the header Content-Type: application/json";
        return Some(text(415, mend));
    }
    None
}

/// Whether the page came from the address to which the request goes. That address must be a number: whoever
/// owns a *name* can let it point here, and then their page's Origin is equal to the Host (DNS rebinding).
fn is_own(origin: &str, host: Option<&str>) -> bool {
    let is_number = |host: &str| {
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        host.parse::<SocketAddr>().is_ok() || bracketed.parse::<IpAddr>().is_ok()
    };
    host.is_some_and(|host| origin.strip_prefix("http://") == Some(host) && is_number(host))
}

/// Whether `host`, a `Host` or an `Origin` without its scheme, names this port of this machine, by number or as
/// `localhost`. For the doors that only programs and people on this machine may use: any other name may be somebody's
/// who lets it point here (DNS rebinding).
pub fn is_this_machine(host: &str, port: u16) -> bool {
    let at_port = |name: &str| host.strip_prefix(name).is_some_and(|rest| rest == format!(":{port}"));
    at_port("127.0.0.1") || at_port("localhost")
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::super::message::header;
    use super::*;
    use tiny_http::Method;

    fn status(headers: &[(&'static str, &str)]) -> Option<u16> {
        let headers = headers.iter().map(|(name, value)| header(name, value)).collect();
        let request = Request::local(Method::Post, "/report", headers, Vec::new());
        refusal(&request).map(|answer| answer.status_code().0)
    }

    #[test]
    fn only_this_machine_is_this_machine() {
        for host in ["127.0.0.1:8001", "localhost:8001"] {
            assert!(is_this_machine(host, 8001), "{host}");
        }
        for host in [
            "127.0.0.1:80011",
            "127.0.0.1",
            "evil.example:8001",
            "localhost.evil.example:8001",
            "localhost:8002",
            "",
        ] {
            assert!(!is_this_machine(host, 8001), "{host}");
        }
    }

    #[test]
    fn only_json_is_taken_and_nothing_from_another_site() {
        let (host, json) = (("Host", "127.0.0.1:9001"), ("Content-Type", "application/json"));
        assert_eq!(status(&[host, json]), None);
        assert_eq!(status(&[host, ("content-type", "Application/JSON; charset=utf-8")]), None);
        assert_eq!(status(&[host, json, ("Origin", "http://127.0.0.1:9001")]), None);
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            assert_eq!(status(&[host, ("Content-Type", kind)]), Some(415), "{kind}");
        }
        assert_eq!(status(&[host]), Some(415));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:9002", "https://127.0.0.1:9001", ""] {
            assert_eq!(status(&[host, json, ("Origin", origin)]), Some(403), "{origin}");
        }
        let rebound = [("Host", "evil.example:9001"), ("Origin", "http://evil.example:9001"), json];
        assert_eq!(status(&rebound), Some(403));
        let v6 = [("Host", "[::1]:9001"), ("Origin", "http://[::1]:9001"), json];
        assert_eq!(status(&v6), None);
        assert_eq!(status(&[json, ("Origin", "http://127.0.0.1:9001")]), Some(403), "without a Host");
    }
}
