// The recordings of the Raft core (src/plays/), drawn as the live cluster is: the same ring, the same logs.
//
// While one is shown, the page asks for no state. Which one and which step stand in the address, so that a link leads
// there.

import { TEXT, language } from "./texts.js";
import { get, html, set } from "./drawing.js";
import { clearDots, drawRing, send } from "./ring.js";
import { drawLogs } from "./logs.js";

const LIST = "/ui/plays";
// Long enough to read the sentences aloud, as `rakit play` does.
const RUN_MS = 8000;
// Between two messages of a step.
const MESSAGE_MS = 150;
// The times of the recorded clusters.
const TIMES = { heartbeat_ms: 100, election_timeout_ms: 1000 };
const LIVE_SECTIONS = ["servers", "story", "requests"];

let play = null;
let step = 0;
let timer = null;
// Grows with each choice: an answer that comes after the next choice is not shown.
let choices = 0;
let goLive = () => {};
let [back, next, run] = [];

export const isPlaying = () => play !== null;

// Makes the choice of recordings. `live` goes on with the live cluster.
export async function startPlays(live) {
  goLive = live;
  set(get("show-title"), TEXT.show);
  const choice = get("plays");
  choice.append(html("option", { value: "" }, TEXT.live));
  choice.addEventListener("change", () => show(choice.value, 0));
  const button = (words, action) => {
    const made = html("button", { type: "button" }, words);
    made.addEventListener("click", action);
    return made;
  };
  back = button(TEXT.play.back, () => go(-1));
  next = button(TEXT.play.next, () => go(1));
  run = button(TEXT.play.run, toggle);
  get("play-buttons").append(back, next, run);
  document.addEventListener("keydown", key);
  addEventListener("hashchange", fromAddress);
  const answer = await fetch(LIST);
  if (!answer.ok) return;
  for (const { name, title } of await answer.json()) choice.append(html("option", { value: name }, title[language]));
  fromAddress();
}

function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const name = wanted.get("play") ?? "";
  if (name || play) show(name, Number(wanted.get("step") ?? 1) - 1);
}

async function show(name, at) {
  stop();
  choices += 1;
  const choice = choices;
  get("plays").value = name;
  if (!name) return leave();
  const answer = await fetch(`${LIST}/${encodeURIComponent(name)}`);
  const recording = answer.ok ? await answer.json() : null;
  if (choice !== choices) return;
  if (!recording) {
    leave();
    return set(get("headline"), TEXT.play.missing(name));
  }
  play = { name, ...recording };
  for (const section of LIVE_SECTIONS) get(`${section}-section`).hidden = true;
  get("control-section").hidden = true;
  get("notices").hidden = true;
  get("play-section").hidden = false;
  document.body.classList.add("play");
  document.body.classList.remove("old");
  step = Math.max(0, Math.min(play.steps.length - 1, Number.isInteger(at) ? at : 0));
  draw();
  next.focus();
}

function leave() {
  choices += 1;
  play = null;
  stop();
  clearDots();
  history.replaceState(null, "", location.pathname);
  get("plays").value = "";
  get("play-section").hidden = true;
  get("notices").hidden = false;
  for (const section of LIVE_SECTIONS) get(`${section}-section`).hidden = false;
  document.body.classList.remove("play");
  goLive();
}

function go(by) {
  stop();
  move(by);
}

function move(by) {
  const to = step + by;
  if (to < 0 || to >= play.steps.length) return;
  step = to;
  draw();
}

function stop() {
  clearInterval(timer);
  timer = null;
  if (run) set(run, TEXT.play.run);
}

function toggle() {
  if (timer !== null) return stop();
  if (step === play.steps.length - 1) {
    step = 0;
    draw();
  }
  set(run, TEXT.play.hold);
  timer = setInterval(() => {
    move(1);
    if (step === play.steps.length - 1) stop();
  }, RUN_MS);
}

function key(event) {
  if (!play || event.ctrlKey || event.altKey || event.metaKey || event.target.closest?.("select, input")) return;
  const action = { ArrowRight: () => go(1), ArrowLeft: () => go(-1), r: toggle, R: toggle, Escape: leave }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

// One picture in the form of page.js.
function read({ nodes, cut }) {
  return {
    still: true,
    room: { cut },
    leader: null,
    nodes: nodes.map((node) => ({
      id: node.node,
      shape: node.up ? node.role : "dead",
      follower: null,
      view: { status: node, consensus: node.consensus, times: TIMES },
    })),
  };
}

// The messages of a step as dots, in their order. A lost one is in the lines twice: when it is sent, and when it is
// lost.
function sendMessages(lines) {
  const lost = new Set(lines.filter((line) => line.startsWith("✗ ")).map((line) => line.slice(2)));
  let delay = 0;
  for (const line of lines) {
    const message = /^(\d+)→(\d+) (\w+)/.exec(line);
    if (!message) continue;
    const [, from, to, kind] = message;
    send(Number(from), Number(to), /Vote/.test(kind) ? "vote" : "", delay, lost.has(line));
    delay += MESSAGE_MS;
  }
}

function cables(cut) {
  const all = new Set(cut.map(([from, to]) => `${from}→${to}`));
  return cut.filter(([from, to]) => from < to || !all.has(`${to}→${from}`))
    .map(([from, to]) => (all.has(`${to}→${from}`) ? `${from}–${to}` : `${from}→${to}`));
}

function draw() {
  const now = play.steps[step];
  const title = TEXT.play.headline(play.title[language], step + 1, play.steps.length);
  const thesis = now.section.startsWith("thesis ");
  const where = thesis ? TEXT.play.thesis(now.section.slice("thesis ".length)) : TEXT.play.paper(now.section);
  set(get("headline"), title);
  get("headline").className = "";
  set(get("whose"), TEXT.play.kind(where));
  set(get("play-says"), now.says[language]);
  set(get("spoken"), `${title}. ${now.says[language]}`);
  document.title = `${title} – Rakit`;
  set(get("play-cut"), now.cut.length ? TEXT.play.cut(cables(now.cut)) : "");
  set(get("play-count"), TEXT.play.lines(now.lines.length));
  set(get("play-lines"), now.lines.join("\n"));
  back.setAttribute("aria-disabled", String(step === 0));
  next.setAttribute("aria-disabled", String(step === play.steps.length - 1));
  history.replaceState(null, "", `#play=${play.name}&step=${step + 1}`);
  clearDots();
  const picture = read(now);
  drawRing(picture);
  drawLogs(picture);
  sendMessages(now.lines);
}
