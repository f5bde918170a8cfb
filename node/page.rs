//! The page for browsers: its files, which are part of the program, and the headers that they travel with.
//!
//! Every node serves it on its public address (`public_service.rs`), and `rakit up` on its control room, where it has
//! buttons. The files are in `node/page/`: `index.html` is the frame, `page.css` the looks, `page.js` asks `/ui/state` and
//! draws, `control.js` has the buttons, `texts.js` every sentence.
//!
//! Nothing is loaded from elsewhere, and the browser is told to see to that: no script but these files, no inline script or
//! style, no frame around the page.

use crate::http::message::{Request, Response, header, with_body};

/// Everything of the page but its frame is under this path.
pub const FILES: &str = "/ui/";

/// What the page may load and do (Content-Security-Policy, level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The path, the type and the content of each file.
const PARTS: [(&str, &str, &str); 5] = [
    ("/ui/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/ui/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/ui/control.js", "text/javascript; charset=utf-8", include_str!("page/control.js")),
    ("/ui/texts.js", "text/javascript; charset=utf-8", include_str!("page/texts.js")),
    ("/ui/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// Whether a request for `/` comes from a browser. curl and scripts get a text instead.
pub fn is_for_browser(request: &Request) -> bool {
    request.header("Accept").is_some_and(|types| types.to_ascii_lowercase().contains("text/html"))
}

/// The frame of the page: the answer to `GET /`.
pub fn frame() -> Response {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

/// Whether this path is a file of the page.
pub fn is_part(path: &str) -> bool {
    PARTS.iter().any(|(of_part, ..)| *of_part == path)
}

/// The file at this path, if there is one.
pub fn part(path: &str) -> Option<Response> {
    PARTS.iter().find(|(of_part, ..)| *of_part == path).map(|(_, kind, content)| file(kind, content))
}

fn file(kind: &'static str, content: &str) -> Response {
    with_body(200, kind, content.as_bytes().to_vec())
        .with_header(header("Content-Security-Policy", POLICY))
        .with_header(header("X-Content-Type-Options", "nosniff"))
        .with_header(header("Referrer-Policy", "no-referrer"))
        // The next build may be another page.
        .with_header(header("Cache-Control", "no-store"))
        .with_header(header("Vary", "Accept"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiny_http::Method;

    #[test]
    fn browsers_get_the_page_and_curl_does_not() {
        let asks = |accept: Option<&str>| {
            let headers = accept.iter().map(|types| header("Accept", types)).collect();
            is_for_browser(&Request::local(Method::Get, "/", headers, Vec::new()))
        };
        assert!(asks(Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")));
        assert!(!asks(Some("*/*")) && !asks(None));
    }

    #[test]
    fn the_page_names_only_files_that_are_there_and_no_other_address() {
        let frame = include_str!("page/index.html");
        let all = PARTS.iter().map(|(.., content)| *content).chain([frame]);
        for content in all {
            for (start, _) in content.match_indices("/ui/") {
                let path: String = content[start..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || "/.".contains(*c))
                    .collect();
                assert!(is_part(&path) || ["/ui/state", "/ui/order"].contains(&path.as_str()), "{path}");
            }
            let foreign = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "an address");
            assert!(!content.contains("innerHTML"), "text of others is only ever text");
        }
    }
}
