//! The page in a real browser: does it show what the nodes say, do its buttons do what they say to the real processes, and
//! does it keep text of others from running? docs/page.md describes the page.
//!
//! Without Chromium (Debian's packages chromium and chromium-driver) each test says that it is skipped. The last screen of
//! each test is kept in `target/page/`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rakit::http::message::{self, Request, Response};
use rakit::http::{Limits, Server, Service};
use rakit::node::page;
use rakit::plays::{NodeThen, PLAYS, Play};
use serde_json::{Value, json};
use tempfile::TempDir;
use tiny_http::Method;

use crate::programs::browser::Browser;
use crate::up::{Up, base_port, eventually, status, temporary};

/// The sizes at which nothing may need a horizontal scroll: a projector, a screen, two phones.
const SIZES: [(u32, u32); 4] = [(1280, 720), (1920, 1080), (390, 844), (360, 740)];

fn browser() -> Option<Browser> {
    let browser = Browser::start();
    if browser.is_none() {
        eprintln!("SKIPPED: chromium and chromedriver are not installed, so no browser looks at the page");
    }
    browser
}

fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/page").join(name)
}

/// A cluster, and a browser that shows its control room.
struct Shown {
    browser: Browser,
    up: Up,
    base: u16,
    _dir: TempDir,
}

impl Shown {
    fn start(nodes: u16, servers: u16) -> Option<Shown> {
        let browser = browser()?;
        let (dir, base) = (temporary(), base_port(nodes, servers));
        let [nodes, servers, port] = [nodes, servers, base].map(|number| number.to_string());
        let mut up = Up::start(dir.path(), &["--nodes", &nodes, "--servers", &servers, "--base-port", &port]);
        let line = up.line("the address of the page", |line| line.starts_with("see: "));
        up.ready();
        browser.size(1280, 720);
        browser.open(line.trim_start_matches("see: "));
        let shown = Shown { browser, up, base, _dir: dir };
        shown.await_headline("who leads", |words| words.contains(" leads term "));
        Some(shown)
    }

    fn headline(&self) -> String {
        self.browser.text("#headline")
    }

    fn await_headline(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        eventually(what, || Some(self.headline()).filter(|words| wanted(words)))
    }

    fn status(&self, node: u16) -> Option<Value> {
        status(self.base + node)
    }

    /// Clicks a button of a process, and waits until the page says that it is done.
    fn order(&self, what: &str, process: &str) {
        let button = format!("button[aria-label='{what} {process}']");
        eventually(&format!("{what} {process} is possible"), || {
            let state = self.browser.run(&format!(
                "return document.querySelector({})?.getAttribute('aria-disabled')",
                json!(button)
            ));
            (state == "false").then_some(())
        });
        self.press(&button, |browser, button| browser.click(button));
    }

    /// Presses a button, and waits until the page says that it is done.
    fn press(&self, button: &str, press: impl Fn(&Browser, &str)) -> String {
        self.browser.run("document.getElementById('control-said').textContent = ''");
        press(&self.browser, button);
        let said = eventually(&format!("an answer to {button}"), || {
            Some(self.browser.text("#control-said")).filter(|said| !said.is_empty())
        });
        assert!(said.starts_with('✓'), "{button}: {said}");
        said
    }

    /// What must hold whatever the page shows.
    fn is_in_order(&self, name: &str) {
        is_in_order(&self.browser, name);
    }
}

fn is_in_order(browser: &Browser, name: &str) {
    for (width, height) in SIZES {
        browser.size(width, height);
        let wide = browser.run("return [document.documentElement.scrollWidth, window.innerWidth]");
        assert!(
            wide[0].as_u64() <= wide[1].as_u64(),
            "at {width} x {height} the page is {} wide: {}",
            wide[0],
            browser.run(
                "return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
                   .map(e => e.tagName + '#' + e.id + '.' + e.getAttribute('class')).slice(0, 8)"
            )
        );
    }
    browser.size(1280, 720);
    for scheme in ["dark", "light"] {
        browser.prefer("prefers-color-scheme", scheme);
        assert_eq!(browser.run(TOO_FAINT), json!([]), "too little contrast in the {scheme} page");
    }
    browser.screenshot(&kept(name));
    let foreign = browser.run(
        "return performance.getEntries().map(e => e.name).filter(n => n.includes('://') && !n.startsWith(location.origin))",
    );
    assert_eq!(foreign, json!([]), "the page asked another address");
    let console = browser.console();
    assert!(console.is_empty(), "the console is not empty: {console:#?}");
}

/// The texts whose contrast to what is behind them is under 4.5:1 (WCAG 2.2, 1.4.3).
const TOO_FAINT: &str = r"
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
      .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const numbers = colour => colour.match(/[\d.]+/g).map(Number);
    const behind = element => {
      for (let e = element; e; e = e.parentElement) {
        if (e.matches('text.cell-term')) return getComputedStyle(e.previousElementSibling).fill;
        if (e.matches('text.number:not(.unknown-number)')) return getComputedStyle(e.parentElement.querySelector('.body')).fill;
        const colour = getComputedStyle(e).backgroundColor;
        if (colour !== 'rgba(0, 0, 0, 0)') return colour;
      }
      return 'rgb(255, 255, 255)';
    };
    const faint = [];
    for (const element of document.querySelectorAll('body *')) {
      const own = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
      if (!own || !element.checkVisibility()) continue;
      const style = getComputedStyle(element);
      const ink = light(numbers(element instanceof SVGElement ? style.fill : style.color));
      const ground = light(numbers(behind(element)));
      const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
      if (contrast < 4.5) faint.push(`${own}: ${contrast.toFixed(2)}`);
    }
    return faint;
";

/// The node that a headline names as leader.
fn leader(headline: &str) -> u16 {
    let words = headline.strip_prefix("node ").and_then(|rest| rest.split(' ').next());
    words.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no leader is named: {headline}"))
}

#[test]
fn the_page_shows_what_the_nodes_say_and_names_the_next_leader() {
    let Some(shown) = Shown::start(5, 2) else { return };
    eventually("the page shows what /status says", || {
        let status = shown.status(1)?;
        let (leads, term) = (status["leader"].as_u64()?, status["term"].as_u64()?);
        let headline = shown.headline();
        let told = headline.starts_with(&format!("node {leads} leads term {term}, elected by "))
            && headline.ends_with(" · 2 of 5 may still fail");
        let roles: Vec<String> = (1..=5)
            .map(|id| {
                let role = if id == leads { "leader" } else { "follower" };
                format!("Node {id}: {role}, term {term}.")
            })
            .collect();
        let servers: Vec<String> = status["servers"]
            .as_array()?
            .iter()
            .flat_map(|server| {
                let name = server["id"].as_str().unwrap_or_default().to_owned();
                [name, format!("{:.1} %", server["cpu"].as_f64().unwrap_or(-1.0)), "● alive".to_owned()]
            })
            .collect();
        let drawn = shown.browser.texts("#servers tbody th, #servers tbody .cpu span, #servers tbody .state");
        (told && shown.browser.text("#ring-words") == roles.join(" ") && drawn == servers).then_some(())
    });
    shown.is_in_order("peace.png");
    choose_play(&shown.browser, "figure-8");
    let play = Play::of("figure-8").expect("it is in the list");
    eventually("the control room serves the recordings", || is_drawn(&shown.browser, &play, 0).then_some(()));
    press_key(&shown.browser, "Escape");
    shown.await_headline("the live cluster again", |words| words.contains(" leads term "));

    // The leader's own page: of the others it knows how far their logs are equal to its own, and no more. Another page is opened
    // only if another node leads by now.
    let mut opened = None;
    let before = eventually("the leader says the same of itself", || {
        let leads = u16::try_from(shown.status(1)?["leader"].as_u64()?).ok()?;
        if opened != Some(leads) {
            shown.browser.open(&format!("http://127.0.0.1:{}/", shown.base + leads));
            opened = Some(leads);
        }
        let words = shown.headline();
        let says = words.starts_with(&format!("node {leads} leads term "))
            && words.ends_with(" · 2 of 5 may still fail");
        let logs = shown.browser.texts("#logs td");
        let known =
            logs.iter().filter(|text| text.starts_with("up to ") && text.ends_with(", as the leader knows"));
        let roles = shown.browser.texts("#ring .word");
        let unknown = roles.iter().filter(|role| *role == "not known here");
        (says && known.count() == 4 && unknown.count() == 4).then_some(leads)
    });
    eventually("a node serves the recordings", || {
        (shown.browser.texts("#plays option").len() == PLAYS.len() + 1).then_some(())
    });
    shown.browser.open(&format!("http://127.0.0.1:{}/", shown.base));

    shown.order("kill", &format!("node-{before}"));
    let next = eventually(
        "another leader, which leads indeed, and the story of it: who was lost, and who leads",
        || {
            let words = shown.headline();
            if !words.contains(" leads term ") || !words.ends_with(" · 1 of 5 may still fail") {
                return None;
            }
            let next = leader(&words);
            let leads = next != before && shown.status(next)?["role"] == "leader";
            let told = shown.browser.texts("#story summary span");
            let says = |words: String| told.iter().any(|one| one.starts_with(&words));
            (leads
                && says(format!("Node {next} leads term "))
                && says(format!("The leader, node {before} of term ")))
            .then_some(next)
        },
    );
    // The sentence opens, with the keyboard, to the lines that say it.
    shown.browser.enter("#story summary");
    // A newer sentence may stand above it by now.
    assert_eq!(shown.browser.run("return document.querySelectorAll('#story details[open]').length"), 1);
    let dead = format!("node {before} does not answer: connection refused");
    eventually("a warning names the dead node, and nothing else", || {
        (shown.browser.texts("#warnings li") == [dead.clone()]).then_some(())
    });
    shown.is_in_order("leader-dead.png");

    // Two more are paused: no majority. The page of a node that is left says so, too, and its primes are still served.
    let others: Vec<u16> = (1..=5).filter(|id| ![before, next].contains(id)).collect();
    shown.order("pause", &format!("node-{next}"));
    shown.order("pause", &format!("node-{}", others[0]));
    shown.await_headline("no majority", |words| {
        words.starts_with("NO MAJORITY: 2 of 5. Primes are served from a state ")
    });
    shown.is_in_order("no-majority.png");
    shown.browser.open(&format!("http://127.0.0.1:{}/", shown.base + others[1]));
    shown.await_headline("the same on the page of a node", |words| {
        words.contains("Primes are served from a state ")
            && (words.starts_with("NO MAJORITY: ") || words.starts_with("NO LEADER."))
    });
    assert!(shown.browser.text("#whose").starts_with(&format!("As node {} sees it.", others[1])));
    assert!(shown.browser.run("return document.getElementById('control-section').hidden") == true);
    shown.is_in_order("no-majority-node.png");
}

/// The state of a process as the kernel tells it; `None` if there is none.
fn kernel_state(pid: u32) -> Option<char> {
    let process = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?;
    process.stat().ok().map(|stat| stat.state)
}

#[test]
fn each_button_does_to_the_real_process_what_it_says() {
    let Some(shown) = Shown::start(3, 1) else { return };
    let pid = |name: &str| shown.up.pids().get(name).copied();
    for name in ["node-1", "server-1/worker", "server-1/daemon"] {
        let first = pid(name).expect("it runs");
        shown.order("pause", name);
        eventually("it is stopped", || (kernel_state(first) == Some('T')).then_some(()));
        shown.order("resume", name);
        eventually("it goes on", || (kernel_state(first) != Some('T')).then_some(()));
        shown.order("kill", name);
        assert_eq!((pid(name), kernel_state(first)), (None, None), "{name} was killed");
        shown.order("start", name);
        let second = pid(name).expect("it runs again");
        assert_ne!(first, second);
        shown.order("restart", name);
        let third = pid(name).expect("it runs again");
        assert_ne!(second, third);
    }

    // Cables: nothing from node 2 arrives at node 1, but the other way it does.
    let choose = |field: &str, value: &str| {
        shown.browser.run(&format!("document.querySelector('select[name={field}]').value = '{value}'"));
    };
    let deaf = |node: u16| shown.status(node).map(|status| status["deaf_to"].clone());
    choose("from", "2");
    choose("to", "1");
    shown.browser.click("input[name=one-way]");
    let cables = "#orders form:nth-child(1) button";
    shown.press(&format!("{cables}:nth-of-type(1)"), |browser, button| browser.enter(button));
    eventually("node 1 hears nothing from node 2", || (deaf(1)? == json!([2])).then_some(()));
    assert_eq!(deaf(2), Some(Value::Null), "node 2 hears node 1");
    eventually("the page shows it", || {
        let cut = shown.browser.texts("#warnings li");
        cut.iter().any(|one| one == "cut: nothing arrives at node 1 from node 2").then_some(())
    });
    shown.press(&format!("{cables}:nth-of-type(2)"), |browser, button| browser.click(button));
    eventually("it is healed", || (deaf(1)? == Value::Null).then_some(()));

    // Messages that are lost: the next election of node 3.
    choose("receiver", "3");
    let messages = "#orders form:nth-child(4) button";
    let lost = || shown.status(3).map(|status| status["loses"].clone());
    // An election of a busy machine ends the order: then it is given again.
    eventually("node 3 will lose its votes, and the page says it", || {
        if lost()? != json!(["next-vote"]) {
            shown.press(&format!("{messages}:nth-of-type(3)"), |browser, button| browser.click(button));
            return None;
        }
        let said = shown.browser.texts("#warnings li");
        said.iter().any(|one| one == "by order: the next election of node 3 fails").then_some(())
    });
    shown.press(&format!("{messages}:nth-of-type(4)"), |browser, button| browser.click(button));
    eventually("everything arrives", || (lost()? == Value::Null).then_some(()));

    // Load, and requests of a size.
    let said = shown.press("#orders form:nth-child(2) button", |browser, button| browser.click(button));
    assert!(said.contains("server-1 is kept busy with 80 %"), "{said}");
    shown.press("#orders form:nth-child(2) button:nth-of-type(2)", |browser, button| browser.click(button));
    shown.browser.fill("input[name=n]", "4321");
    let said = shown.press("#orders form:nth-child(3) button", |browser, button| browser.click(button));
    assert!(said.contains("20 requests per second ask for /4321"), "{said}");
    eventually("the page shows who answered, and why", || {
        let row = shown.browser.texts("#requests tbody tr:first-child td");
        let [_, n, _, server, why, ..] = row.as_slice() else { return None };
        (n == "4321" && server == "server-1" && why.starts_with("the only one")).then_some(())
    });
    shown.press("#orders form:nth-child(3) button:nth-of-type(2)", |browser, button| browser.click(button));
    eventually("the whole cluster is well again", || {
        shown.headline().ends_with(" · 1 of 3 may still fail").then_some(())
    });
    shown.is_in_order("control-room.png");

    // Whoever has no token looks on.
    let before = shown.up.pids();
    shown.browser.run("sessionStorage.clear()");
    shown.browser.open(&format!("http://127.0.0.1:{}/", shown.base));
    shown.await_headline("the same picture", |words| words.contains(" leads term "));
    assert!(shown.browser.text("#control-said").contains("open the address with the token"));
    shown.browser.click("button[aria-label='kill node-1']");
    eventually("the button is refused", || {
        shown.browser.text("#control-said").contains("the token of control.json is missing").then_some(())
    });
    assert_eq!(shown.up.pids(), before);
}

// ------------------------------------------------------------------------------------------------ a stand-in

/// Serves the real page with a state of the test's own, and counts how often it was asked for.
struct StandIn {
    url: String,
    asked: Arc<AtomicUsize>,
    _server: Server,
}

struct StandInService {
    state: Value,
    asked: Arc<AtomicUsize>,
}

impl Service for StandInService {
    fn body_limit(&self, _method: &Method, _path: &str) -> Result<usize, Response> {
        Ok(0)
    }

    fn call(&self, request: Request) -> Response {
        match request.path() {
            "/" => page::frame(),
            "/ui/state" => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                message::json(200, &self.state)
            }
            path => {
                page::part(path).unwrap_or_else(|| message::text(404, "the page asks for what is not there"))
            }
        }
    }
}

impl StandIn {
    fn start(state: &Value) -> StandIn {
        let asked = Arc::new(AtomicUsize::new(0));
        let service = StandInService { state: state.clone(), asked: Arc::clone(&asked) };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server =
            Server::bind("stand-in", any, Limits::default(), Arc::new(service)).expect("a free port");
        StandIn { url: format!("http://{}/", server.local_addr()), asked, _server: server }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A state with `text` wherever a node passes on what others wrote.
fn state_with(text: &str) -> Value {
    let server = json!({
        "id": text, "worker": "127.0.0.1:10001", "cpu": 12.5, "cores": 2, "cpu_known": true, "alive": true, "worker_up": true,
        "epoch": 1, "sequence": 1, "in_flight": 1, "stalled": false, "avoided": false, "also_reported": text,
    });
    let event = |sequence: u64, kind: &str, server: Option<&str>, other: Option<u64>| {
        json!({
            "sequence": sequence, "at_us": 1_700_000_000_000_000_u64 + sequence, "kind": kind, "term": 3, "other": other,
            "server": server, "index": 7, "reason": text, "line": text,
        })
    };
    let request = json!({
        "sequence": 1, "at_us": 1_700_000_000_000_000_u64, "n": "7", "status": 200, "server": text,
        "compared": [[text, 12.5], ["server-2", null]], "ms": 1.5, "tries": 1, "hedged": true,
    });
    let view = json!({
        "status": {
            "cluster": text, "node": 1, "role": "follower", "term": 4, "leader": 2, "voted_for": null, "commit_index": 9,
            "applied_index": 9, "last_index": 9, "snapshot_index": 0, "state_digest": "0", "policy": "projected",
            "uptime_ms": 1, "version": "0", "protocol": 0, "refusals": [{"node": 2, "reason": text}],
            "contradiction": text, "joining": true, "loses": ["heartbeats", "votes", "next-vote"], "servers": [server],
        },
        "servers_hidden": 0, "members": [1, 2, 3], "now_us": 1_700_000_000_000_000_u64, "age_ms": 5, "stale_ms": null,
        "times": {"heartbeat_ms": 100, "election_timeout_ms": 1000, "report_interval_ms": 1000, "server_timeout_ms": 5000},
        "consensus": {"votes": [], "election_in_ms": 700, "followers": [], "log_from": 1, "log_terms": [[1, 2], [4, 7]]},
        "servers": [{"decided_at": 3, "report_age_ms": 10, "chosen": 1, "in_flight": {"1": 1, "3": 2}}],
        "requests": [request],
        "story": [event(1, "leader-lost", None, Some(3)), event(2, "server-new", Some(text), None)],
    });
    let silent = json!({"node": 2, "view": null, "age_ms": 0, "silent": text});
    json!({"nodes": [{"node": 1, "view": view, "age_ms": 0, "silent": null}, silent], "room": null})
}

#[test]
fn the_headline_counts_only_the_members_that_vote() {
    let Some(browser) = browser() else { return };
    let mut state = state_with("server-1");
    let view = &mut state["nodes"][0]["view"];
    let (cluster, public) = ("127.0.0.1:9001", "127.0.0.1:8001");
    let member = |id: u64| json!({"id": id, "cluster": cluster, "public": public, "voter": id != 4});
    let follower = |id: u64, acknowledged_ms: Option<u64>| {
        let (match_index, contact_ms) = (9, 20);
        json!({"node": id, "match_index": match_index, "acknowledged_ms": acknowledged_ms, "contact_ms": contact_ms})
    };
    view["members"] = json!([1, 2, 3, 4]);
    view["status"]["members"] = (1..=4).map(member).collect();
    view["status"]["members_index"] = json!(7);
    view["status"]["role"] = json!("leader");
    view["status"]["leader"] = json!(1);
    // The learner, node 4, was added and has not been started yet.
    view["consensus"]["followers"] = json!([follower(2, Some(20)), follower(3, Some(20)), follower(4, None)]);
    state["nodes"][1] = json!({"node": 4, "view": null, "age_ms": 0, "silent": "connection refused"});
    let stand_in = StandIn::start(&state);
    browser.open(&stand_in.url);
    let leads =
        eventually("who leads", || Some(browser.text("#headline")).filter(|words| words.contains("leads")));
    assert_eq!(leads, "node 1 leads term 4 · 1 of 3 may still fail");
}

// ---------------------------------------------------------------------------------------------- the recordings

/// What a step is on the page: the sentence, what a screen reader says of the nodes, and the terms in the logs.
fn is_drawn(browser: &Browser, play: &Play, number: usize) -> bool {
    let step = &play.steps[number];
    let spoken = |node: &NodeThen| {
        let role = node.role.map_or("dead".to_owned(), |role| role.to_string());
        format!("Node {}: {role}, term {}.", node.node, node.term)
    };
    let roles: Vec<String> = step.nodes.iter().map(spoken).collect();
    let terms: Vec<String> = step
        .nodes
        .iter()
        .flat_map(|node| &node.consensus.log_terms)
        .flat_map(|(term, count)| (0..*count).map(move |_| term.to_string()))
        .collect();
    let all = format!("{} · step {} of {}", play.title.en, number + 1, play.steps.len());
    let drawn: Vec<String> =
        browser.texts("#logs .cell-term").into_iter().filter(|term| !term.is_empty()).collect();
    browser.text("#headline") == all
        && browser.text("#play-says") == step.says.en
        && browser.text("#ring-words") == roles.join(" ")
        && drawn == terms
}

fn press_key(browser: &Browser, key: &str) {
    browser.run(&format!(
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: {}, bubbles: true}}))",
        json!(key)
    ));
}

fn choose_play(browser: &Browser, name: &str) {
    eventually("the recordings are listed", || {
        let count = browser.run("return document.querySelectorAll('#plays option').length");
        (count.as_u64()? as usize == PLAYS.len() + 1).then_some(())
    });
    browser.run(&format!(
        "const plays = document.getElementById('plays'); plays.value = {}; plays.dispatchEvent(new Event('change'))",
        json!(name)
    ));
}

#[test]
fn a_recording_is_drawn_step_by_step_with_buttons_and_keys() {
    let Some(browser) = browser() else { return };
    let stand_in = StandIn::start(&state_with("server-1"));
    browser.size(1280, 720);
    for name in ["figure-7", "figure-8", "snapshot"] {
        let play = Play::of(name).expect("it is in the list");
        browser.open(&stand_in.url);
        choose_play(&browser, name);
        let shows = |number| {
            eventually(&format!("{name}, step {number}"), || is_drawn(&browser, &play, number).then_some(()));
        };
        shows(0);
        let button = "#play-buttons button:nth-of-type(2)";
        for number in 1..play.steps.len() {
            match number % 3 {
                0 => press_key(&browser, "ArrowRight"),
                1 => browser.click(button),
                // It has the focus.
                _ => browser.enter(button),
            }
            shows(number);
        }
        press_key(&browser, "ArrowRight");
        shows(play.steps.len() - 1);
        press_key(&browser, "ArrowLeft");
        shows(play.steps.len() - 2);
        is_in_order(&browser, &format!("play-{name}.png"));
    }
    // A recording asks for no state, and the live cluster is back afterwards.
    let before = stand_in.asked();
    browser.run_async("setTimeout(arguments[0], 1500)");
    assert!(stand_in.asked() <= before + 1, "it asks for the state behind a recording");
    press_key(&browser, "Escape");
    eventually("the live cluster is back", || {
        (browser.text("#headline").contains("node 2 leads term 4") && stand_in.asked() > before).then_some(())
    });
    assert!(browser.run("return document.getElementById('play-section').hidden") == true);
    assert_eq!(browser.texts("#logs .cell-term"), [""; 0]);
    // A link leads to a step.
    let play = Play::of("old-leader").expect("it is in the list");
    browser.open(&format!("{}#play=old-leader&step=5", stand_in.url));
    eventually("the step of the link", || is_drawn(&browser, &play, 4).then_some(()));
    // It runs by itself, and each press of the button stops it or lets it go on.
    let run = "#play-buttons button:nth-of-type(3)";
    browser.click(run);
    eventually("it runs", || (browser.text(run) == "stop").then_some(()));
    eventually("the next step by itself", || is_drawn(&browser, &play, 5).then_some(()));
    eventually("it has stopped at the end", || (browser.text(run) == "run").then_some(()));
}

// ----------------------------------------------------------------------------------------------- the languages

/// Compares the two tables of sentences, and looks for English ones on the page: `[what is wrong, what is English]`.
const ENGLISH_SHOWN: &str = r#"
    const done = arguments[0];
    Promise.all([import("/ui/english.js"), import("/ui/indonesian.js")]).then(([english, indonesian]) => {
      const [wrong, whole, parts, foreign] = [[], [], [], []];
      const cut = (text) => text.split(/[`"]|\$\{|\}/)
        .filter((part) => /^[A-Za-z ,.:;%'·]+$/.test(part) && part.trim().split(/\s+/).length > 1).map((part) => part.trim());
      const walk = (en, id, at) => {
        if (typeof en !== typeof id || en?.length !== id?.length && typeof en !== "string") return wrong.push(at);
        if (typeof en === "object") {
          for (const key of new Set([...Object.keys(en), ...Object.keys(id)])) walk(en[key], id[key], `${at}.${key}`);
          return;
        }
        if (typeof en === "string" && en !== id) whole.push(en);
        const own = cut(typeof en === "string" ? `"${en}"` : en.toString());
        // The same in both languages: the name of a command, a term of the field.
        const same = (part) => id.toString().includes(part) && ![", term", "rakit up"].includes(part);
        wrong.push(...own.filter(same).map((part) => `${at}: ${part}`));
        parts.push(...own);
        foreign.push(id.toString());
      };
      walk(english.ENGLISH, indonesian.INDONESIAN, "");
      const shown = [];
      for (const element of document.querySelectorAll("body *:not(pre, script, noscript)")) {
        if (!element.checkVisibility()) continue;
        for (const text of element.childNodes) if (text.nodeType === 3) shown.push(text.data.trim());
        shown.push(element.getAttribute("aria-label") ?? "");
      }
      const known = foreign.join("\n");
      const found = [...whole.filter((sentence) => shown.includes(sentence)),
        ...parts.filter((part) => !known.includes(part) && shown.some((text) => text.includes(part)))];
      done([wrong, [...new Set(found)]]);
    }, (error) => done([[String(error)], []]));
"#;

#[test]
fn the_page_speaks_indonesian_and_remembers_it() {
    let Some(browser) = browser() else { return };
    let mut state = state_with("server-1");
    state["room"] = json!({
        "processes": {"node-1": "running", "node-3": "dead", "server-1/worker": "running", "server-1/daemon": "paused"},
        "cut": [[1, 3]], "requests_per_second": 0,
    });
    state["nodes"][1]["silent"] = json!("connection refused");
    let stand_in = StandIn::start(&state);
    browser.size(1280, 720);
    browser.open(&stand_in.url);
    let drawn = || {
        eventually("the state is drawn", || (browser.text("#servers tbody th") == "server-1").then_some(()));
        let found = browser.run_async(ENGLISH_SHOWN);
        assert_eq!(found[0], json!([]), "the tables of sentences differ in form, or have the same words");
        found[1].as_array().expect("a list").clone()
    };
    let lang = || browser.run("return document.documentElement.lang");
    assert_eq!(lang(), "en");
    let english = drawn();
    assert!(english.len() > 40, "the check finds too little English on the English page: {english:?}");

    browser.click("#language-id");
    eventually("the language of the page", || (lang() == "id").then_some(()));
    assert_eq!(drawn(), [Value::Null; 0], "English sentences");
    assert_eq!(
        browser.run("return document.querySelector('#language-id').getAttribute('aria-pressed')"),
        "true"
    );
    let warnings = browser.texts("#warnings li");
    assert!(warnings.contains(&"node 2 tidak menjawab: koneksi ditolak".to_owned()), "{warnings:?}");
    is_in_order(&browser, "indonesian.png");

    // Another visit, and a recording.
    browser.open("about:blank");
    browser.open(&stand_in.url);
    eventually("it is remembered", || (lang() == "id").then_some(()));
    let play = Play::of("figure-8").expect("it is in the list");
    choose_play(&browser, "figure-8");
    eventually("the sentence of the step", || {
        (browser.text("#play-says") == play.steps[0].says.id).then_some(())
    });
    let found = browser.run_async(ENGLISH_SHOWN);
    assert_eq!(found, json!([[], []]), "English sentences at a recording");
    is_in_order(&browser, "play-indonesian.png");
    browser.click("#language-en");
    eventually("English again, at the same step", || {
        (lang() == "en" && is_drawn(&browser, &play, 0)).then_some(())
    });
}

#[test]
fn what_others_wrote_is_shown_as_text() {
    let Some(browser) = browser() else { return };
    let hostile = "<img src=/x onerror=\"document.title='run'\"><script>document.title='run'</script>";
    let stand_in = StandIn::start(&state_with(hostile));
    browser.size(1280, 720);
    browser.open(&stand_in.url);
    eventually("the state is shown", || (browser.text("#servers tbody th") == hostile).then_some(()));
    for selector in ["#warnings", "#requests .server", "#requests .why", "#story summary", "#story pre"] {
        let text = browser.texts(selector).join(" ");
        assert!(text.contains(hostile), "{selector} shows {text}");
    }
    assert_eq!(browser.run("return document.querySelectorAll('img, body script').length"), 0);
    let title = browser.run("return document.title");
    assert!(title.as_str().is_some_and(|title| title.contains(hostile)), "{title}");
    is_in_order(&browser, "hostile.png");

    // The longest name, which no line can break at a blank.
    let stand_in = StandIn::start(&state_with(&"W".repeat(64)));
    browser.open(&stand_in.url);
    eventually("the long name is shown", || {
        browser.text("#servers tbody th").starts_with("WWWW").then_some(())
    });
    is_in_order(&browser, "long-name.png");
}

#[test]
fn a_hidden_page_asks_nothing_and_who_wants_no_motion_sees_none() {
    let Some(browser) = browser() else { return };
    let stand_in = StandIn::start(&state_with("server-1"));
    browser.prefer("prefers-reduced-motion", "reduce");
    browser.open(&stand_in.url);
    eventually("the page asks again and again", || (stand_in.asked() > 3).then_some(()));
    assert_eq!(browser.run("return document.querySelectorAll('#ring .dot').length"), 0);
    browser.prefer("prefers-reduced-motion", "no-preference");
    eventually("a heartbeat is on its way", || {
        (browser.run("return document.querySelectorAll('#ring .dot').length") != 0).then_some(())
    });
    let hide = |hidden: bool| {
        browser.run(&format!(
            "Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}});
             document.dispatchEvent(new Event('visibilitychange'))"
        ));
    };
    hide(true);
    // At most one question was under way. Its answer starts no further one: the clock of the page says when four would have
    // come.
    let before = stand_in.asked();
    browser.run_async("setTimeout(arguments[0], 2000)");
    assert!(stand_in.asked() <= before + 1, "it asked {} times while hidden", stand_in.asked() - before);
    let before = stand_in.asked();
    hide(false);
    eventually("it goes on", || (stand_in.asked() > before).then_some(()));
}

/// Takes the pictures of docs/page.md and docs/demo.md, from a real cluster:
/// `cargo test --test system page::pictures -- --ignored`
#[test]
#[ignore = "writes into docs/"]
fn pictures() {
    let Some(shown) = Shown::start(5, 3) else { return };
    let take = |name: &str| {
        shown.browser.run("window.scrollTo(0, 0)");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        shown.browser.screenshot(&file);
        let size = std::fs::metadata(&file).expect("it was written").len();
        assert!(size <= 150 * 1024, "{name} has {size} bytes");
    };
    shown.browser.size(1000, 640);
    shown.press("#orders form:nth-child(2) button", |browser, button| browser.click(button));
    shown.press("#orders form:nth-child(3) button", |browser, button| browser.click(button));
    eventually("the load shows", || {
        let loads: BTreeMap<String, f64> = shown.status(1)?["servers"]
            .as_array()?
            .iter()
            .filter_map(|server| Some((server["id"].as_str()?.to_owned(), server["cpu"].as_f64()?)))
            .collect();
        (loads.get("server-1")? > &10.0 && shown.browser.texts("#requests tbody tr").len() == 10)
            .then_some(())
    });
    take("page-peace.png");

    let before = leader(&shown.headline());
    shown.order("kill", &format!("node-{before}"));
    let next = leader(&shown.await_headline("another leader", |words| {
        words.contains(" leads term ") && leader(words) != before && words.contains("1 of 5")
    }));
    shown.browser.click("#story summary");
    take("page-leader-dead.png");
    shown.browser.click("#story summary");
    // From here, a button scrolls in at the lower edge, away from the head of the page.
    shown.browser.run("window.scrollTo(0, 0)");
    shown.order("start", &format!("node-{before}"));
    shown.await_headline("all are back", |words| words.contains("2 of 5"));

    // An election is over before anybody looks. While no vote arrives, it goes on.
    let votes = |button: u16| {
        for id in 1..=5 {
            shown.browser.run(&format!("document.querySelector('select[name=receiver]').value = '{id}'"));
            let button = format!("#orders form:nth-child(4) button:nth-of-type({button})");
            shown.press(&button, |browser, button| browser.click(button));
        }
    };
    votes(2);
    let leads = leader(&shown.headline());
    shown.order("kill", &format!("node-{leads}"));
    shown.await_headline("an election", |words| words.starts_with("ELECTION: "));
    eventually("a candidate", || {
        shown.browser.texts("#ring .word").iter().any(|role| role == "candidate").then_some(())
    });
    take("page-election.png");
    votes(4);
    shown.order("start", &format!("node-{leads}"));
    shown.await_headline("all are back", |words| words.contains("2 of 5"));

    shown.order("pause", "server-3/daemon");
    eventually("the server is dead", || {
        shown.browser.texts("#servers .state").last()?.starts_with("✕ dead by log index").then_some(())
    });
    take("page-dead-server.png");
    shown.order("resume", "server-3/daemon");

    for id in (1..=5).filter(|id| *id != before).take(3) {
        shown.order("pause", &format!("node-{id}"));
    }
    shown.await_headline("no majority", |words| words.starts_with("NO MAJORITY: 2 of 5."));
    take("page-no-majority.png");
    assert_ne!(before, next);
    drop(shown);
}
