//! The node's public address: primes for clients; status, log, health and metrics for whoever looks after it. Says
//! which file answers which path; docs/protocol.md describes every route with examples.
//!
//! Runs on the public listener's threads, one per open connection. Nothing here asks the leader or waits for consensus:
//! a request is routed from this node's own applied state, and `/status` tells this node's own view.

use std::sync::Arc;

use tiny_http::Method;

use super::cuts::{CUTS_BYTES_MAX, Cuts};
use super::live::Live;
use super::metrics::Metrics;
use super::page;
use super::primes::Primes;
use super::status::NodeStatus;
use crate::http::Service;
use crate::http::message::{Request, Response, header, text};
use crate::protocol::path;

/// The public address's service.
pub struct PublicService {
    /// `/N`.
    pub primes: Primes,
    /// `/status`, `/log`, `/readyz`, `/`.
    pub status: Arc<NodeStatus>,
    /// `/ui/state`.
    pub live: Live,
    /// `/metrics`.
    pub metrics: Metrics,
    /// `/ui/cuts`, if this node was started for it.
    pub cuts: Arc<Cuts>,
    /// This node's public port.
    pub port: u16,
}

/// What a path asks for.
enum Route<'a> {
    Root,
    /// A file of the page.
    PagePart,
    PageState,
    Status,
    Log,
    Healthz,
    Readyz,
    Metrics,
    /// A single segment: it should be N.
    Prime(&'a str),
}

fn route(path: &str) -> Option<Route<'_>> {
    Some(match path {
        path::USAGE => Route::Root,
        path::PAGE_STATE => Route::PageState,
        path if page::is_part(path) => Route::PagePart,
        path::STATUS => Route::Status,
        path::LOG => Route::Log,
        path::HEALTHZ => Route::Healthz,
        path::READYZ => Route::Readyz,
        path::METRICS => Route::Metrics,
        // Browsers and robots ask for these by themselves. They are no mistaken N.
        "/favicon.ico" | "/robots.txt" => return None,
        _ => Route::Prime(path.strip_prefix('/').filter(|segment| !segment.contains('/'))?),
    })
}

impl Service for PublicService {
    fn body_limit(&self, method: &Method, path: &str) -> Result<usize, Response> {
        if path == path::CUTS && self.cuts.allowed() {
            return match method {
                Method::Post => Ok(CUTS_BYTES_MAX),
                _ => Err(text(405, "only POST").with_header(header("Allow", "POST"))),
            };
        }
        if route(path).is_none() {
            return Err(text(
                404,
                "there is /N for the Nth prime here, and /status, /log, /healthz, /readyz, /metrics",
            ));
        }
        if !matches!(method, Method::Get | Method::Head) {
            return Err(text(405, "only GET and HEAD").with_header(header("Allow", "GET, HEAD")));
        }
        Ok(0)
    }

    fn methods(&self) -> &'static str {
        if self.cuts.allowed() { "GET, HEAD, POST, OPTIONS" } else { "GET, HEAD, OPTIONS" }
    }

    fn call(&self, request: Request) -> Response {
        match route(request.path()) {
            None if request.path() == path::CUTS => self.cuts.order(&request, self.port),
            None => text(404, "nothing is here"),
            Some(Route::Root) if page::is_for_browser(&request) => page::frame(),
            Some(Route::Root) => self.status.usage(),
            Some(Route::PagePart) => {
                page::part(request.path()).unwrap_or_else(|| text(404, "nothing is here"))
            }
            Some(Route::PageState) => self.live.state(&self.status),
            Some(Route::Status) => self.status.status(),
            Some(Route::Log) => self.status.log(request.query().unwrap_or("")),
            Some(Route::Healthz) => text(200, "ok"),
            Some(Route::Readyz) => self.status.readyz(),
            Some(Route::Metrics) => self.metrics.page(),
            Some(Route::Prime(segment)) => self.primes.prime(segment, &request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_segment_should_be_n_and_anything_deeper_is_not_here() {
        assert!(matches!(route("/abc"), Some(Route::Prime("abc"))));
        assert!(matches!(route("/-1"), Some(Route::Prime("-1"))));
        assert!(route("/3/4").is_none() && route("/favicon.ico").is_none() && route("*").is_none());
    }
}
