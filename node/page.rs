//! The page for browsers: its files, which are part of the program, and the headers that they travel with.
//!
//! Every node serves it on its public address (`public_service.rs`), and `rakit up` on its control room, where it has
//! buttons. The files are in `node/page/`: `index.html` is the frame, `page.css` the looks, `page.js` asks `/ui/state`
//! and draws, with `ring.js`, `logs.js` and `drawing.js`; `control.js` has the buttons, `play.js` shows recordings,
//! `texts.js` chooses the language, `english.js` and `indonesian.js` hold every sentence. The recordings are those of
//! `rakit::plays`.
//!
//! Nothing is loaded from elsewhere, and the browser is told to see to that: no script but these files, no inline
//! script or style, no frame around the page.

use std::sync::LazyLock;

use serde::Serialize;

use crate::http::message::{Request, Response, header, with_body};
use crate::plays::{PLAYS, Play, Sentence};

/// Everything of the page but its frame is under this path.
pub const FILES: &str = "/ui/";

/// What the page may load and do (Content-Security-Policy, level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The path, the type and the content of each file.
const PARTS: [(&str, &str, &str); 11] = [
    ("/ui/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/ui/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/ui/control.js", "text/javascript; charset=utf-8", include_str!("page/control.js")),
    ("/ui/play.js", "text/javascript; charset=utf-8", include_str!("page/play.js")),
    ("/ui/ring.js", "text/javascript; charset=utf-8", include_str!("page/ring.js")),
    ("/ui/logs.js", "text/javascript; charset=utf-8", include_str!("page/logs.js")),
    ("/ui/drawing.js", "text/javascript; charset=utf-8", include_str!("page/drawing.js")),
    ("/ui/texts.js", "text/javascript; charset=utf-8", include_str!("page/texts.js")),
    ("/ui/english.js", "text/javascript; charset=utf-8", include_str!("page/english.js")),
    ("/ui/indonesian.js", "text/javascript; charset=utf-8", include_str!("page/indonesian.js")),
    ("/ui/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// The list of recordings; each of them is one path deeper.
const PLAY_LIST: &str = "/ui/plays";

/// A line of the list of recordings.
#[derive(Serialize)]
struct Listed {
    name: &'static str,
    title: Sentence,
}

static PLAY_TITLES: LazyLock<String> = LazyLock::new(|| {
    let titles = PLAYS.iter().filter_map(|(name, _)| Some(Listed { name, title: Play::of(name)?.title }));
    serde_json::to_string(&titles.collect::<Vec<_>>()).expect("texts are JSON")
});

/// Whether a request for `/` comes from a browser. curl and scripts get a text instead.
pub fn is_for_browser(request: &Request) -> bool {
    request.header("Accept").is_some_and(|types| types.to_ascii_lowercase().contains("text/html"))
}

/// The frame of the page: the answer to `GET /`.
pub fn frame() -> Response {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

/// Whether this path is a file of the page, or a recording for it.
pub fn is_part(path: &str) -> bool {
    PARTS.iter().any(|(of_part, ..)| *of_part == path) || path == PLAY_LIST || recording(path).is_some()
}

fn recording(path: &str) -> Option<&'static str> {
    let name = path.strip_prefix(PLAY_LIST)?.strip_prefix('/')?;
    PLAYS.iter().find(|(of_play, _)| *of_play == name).map(|(_, recording)| *recording)
}

/// The file at this path, if there is one.
pub fn part(path: &str) -> Option<Response> {
    let found =
        PARTS.iter().find(|(of_part, ..)| *of_part == path).map(|(_, kind, content)| (*kind, *content));
    let json = |content| ("application/json", content);
    let list = || (path == PLAY_LIST).then(|| json(PLAY_TITLES.as_str()));
    found.or_else(list).or_else(|| recording(path).map(json)).map(|(kind, content)| file(kind, content))
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
