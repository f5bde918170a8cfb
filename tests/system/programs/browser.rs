//! A real browser, steered over WebDriver (W3C, "WebDriver", level 2): plain HTTP and JSON to Debian's `chromedriver`, which
//! starts a headless Chromium. `page.rs` uses it. Without the two programs [`Browser::start`] gives `None`, and a test says
//! that it is skipped.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::http;

/// One browser with one window. Dropping it ends all of its processes.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    /// `/session/ID`; empty until there is one.
    session: String,
    /// The profile, and what else the two programs write.
    _directory: tempfile::TempDir,
}

/// How often chromedriver is started at the most. It chooses a port for IPv4, and ends if that is taken for IPv6.
const DRIVER_STARTS_MAX: usize = 10;

/// A driver, and its port; `None` if it ended.
fn start_driver(directory: &Path) -> Option<(Child, u16)> {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .env("TMPDIR", directory)
        .env("HOME", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("it was found");
    let stdout = BufReader::new(driver.stdout.take().expect("it is piped"));
    let port = stdout.lines().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse::<u16>().ok()
    });
    if port.is_none() {
        driver.wait().expect("our own child");
    }
    Some((driver, port?))
}

impl Browser {
    /// A browser with an empty page; `None` if Chromium or its driver is not installed.
    pub fn start() -> Option<Browser> {
        let found = |program: &str| {
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status()
        };
        if found("chromedriver").is_err() || found("chromium").is_err() {
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (driver, port) =
            (0..DRIVER_STARTS_MAX).find_map(|_| start_driver(directory.path())).expect("chromedriver starts");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut browser = Browser { driver, address, session: String::new(), _directory: directory };
        // The sandbox does not work for root, and /dev/shm is small in containers.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-lcd-text",
            "--hide-scrollbars",
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.call("POST", "/session", &wanted);
        browser.session = format!("/session/{}", session["sessionId"].as_str().expect("a session has an id"));
        Some(browser)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let headers = ["Content-Type: application/json"];
        let answer = http::request(self.address, method, path, &headers, body.as_bytes())
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let value = answer.json()["value"].clone();
        assert_eq!(answer.status, 200, "{method} {path}: {value}");
        value
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("{}{path}", self.session), body)
    }

    /// Opens an address.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({"url": url}));
    }

    /// Runs JavaScript in the page; what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Runs JavaScript that calls its last argument when it is done.
    pub fn run_async(&self, script: &str) -> Value {
        self.post("/execute/async", &json!({"script": script, "args": []}))
    }

    /// The text of the first element that this CSS selector finds; empty if there is none.
    pub fn text(&self, selector: &str) -> String {
        let found =
            self.run(&format!("return document.querySelector({})?.textContent ?? ''", json!(selector)));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// The texts of all elements that this CSS selector finds.
    pub fn texts(&self, selector: &str) -> Vec<String> {
        let script =
            format!("return [...document.querySelectorAll({})].map(e => e.textContent)", json!(selector));
        serde_json::from_value(self.run(&script)).expect("a list of texts")
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post("/element", &json!({"using": "css selector", "value": selector}));
        let id = found.as_object().and_then(|one| one.values().next()).and_then(Value::as_str);
        id.expect("an element has an id").to_owned()
    }

    /// Clicks the first element that this CSS selector finds, as a mouse does.
    pub fn click(&self, selector: &str) {
        self.post(&format!("/element/{}/click", self.element(selector)), &json!({}));
    }

    /// Types into the first element that this CSS selector finds, in place of what is there.
    pub fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("/element/{element}/clear"), &json!({}));
        self.post(&format!("/element/{element}/value"), &json!({"text": text}));
    }

    /// Presses Enter with the keyboard's focus on the first element that this CSS selector finds.
    pub fn enter(&self, selector: &str) {
        self.post(&format!("/element/{}/value", self.element(selector)), &json!({"text": "\u{e007}"}));
    }

    /// Sets the size of the visible page, in CSS pixels.
    pub fn size(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.devtools("Emulation.setDeviceMetricsOverride", size);
    }

    /// Sets media features, such as `prefers-color-scheme` to `dark`.
    pub fn prefer(&self, feature: &str, value: &str) {
        let features = json!({"features": [{"name": feature, "value": value}]});
        self.devtools("Emulation.setEmulatedMedia", features);
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// What the page, and the browser about it, wrote to the console since the last call.
    pub fn console(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect()
    }

    /// Writes what is visible into a PNG file.
    pub fn screenshot(&self, file: &Path) {
        // Not WebDriver's own command: that one packs quickly, into twice the size.
        let picture = self.devtools("Page.captureScreenshot", json!({"format": "png"}));
        let bytes = base64(picture["data"].as_str().expect("a picture is a text"));
        std::fs::create_dir_all(file.parent().expect("a file in a directory")).expect("it can be made");
        std::fs::write(file, bytes).expect("the picture can be written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // Ends Chromium in order, so that it leaves no process outside of the group.
            let _ = http::request(self.address, "DELETE", &self.session, &[], b"");
        }
        let group = i32::try_from(self.driver.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.driver.wait();
    }
}

/// RFC 4648, section 4.
fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let group = |four: &[u8]| {
        let bits =
            four.iter().fold(0u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
