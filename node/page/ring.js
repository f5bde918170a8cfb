// The ring of nodes: role, term, time-out, cables, and messages as moving dots. page.js draws the live cluster with it,
// and play.js a recording.

import { TEXT } from "./texts.js";
import { attributes, calm, colourOf, get, set, svg, sync } from "./drawing.js";

const DOT_MS = 480;
const DOTS_MAX = 60;

const CENTRE = { x: 220, y: 200 };
const RING = 135;
const places = new Map();
let arcs = [];
let dots = [];
let seenStory = null;

function place(index, count) {
  const angle = (2 * Math.PI * index) / count - Math.PI / 2;
  return { x: CENTRE.x + RING * Math.cos(angle), y: CENTRE.y + RING * Math.sin(angle) };
}

// The role as a shape beside the number: a crown leads, a triangle asks, a cross is dead, two bars are paused.
const SHAPES = {
  leader: ["M-11,6 L-13,-6 L-6,0 L0,-9 L6,0 L13,-6 L11,6 Z", ""],
  candidate: ["M-10,7 L10,7 L0,-9 Z", ""],
  "pre-candidate": ["M-10,7 L10,7 L0,-9 Z", "hollow"],
  follower: ["M-6,0 a6,6 0 1,0 12,0 a6,6 0 1,0 -12,0", "hollow"],
  dead: ["M-8,-8 L8,8 M8,-8 L-8,8", ""],
  paused: ["M-7,-8 L-3,-8 L-3,8 L-7,8 Z M3,-8 L7,-8 L7,8 L3,8 Z", ""],
  silent: ["M-8,0 L8,0", ""],
  unknown: ["M-8,0 L8,0", ""],
};

function makeNode() {
  const group = svg("g");
  group.append(
    svg("circle", { r: 34, class: "track" }),
    svg("circle", { r: 34, class: "arc", transform: "rotate(-90)" }),
    svg("circle", { r: 28, class: "body" }),
    svg("text", { y: 8, class: "number" }),
    svg("path", { class: "shape", transform: "translate(0,-46)" }),
    svg("text", { y: 54, class: "word" }),
    svg("text", { y: 70, class: "small" }),
    svg("text", { y: 84, class: "small" }),
  );
  return group;
}

// The picture: `nodes` with their views, `room` with the cut cables. With `still`, no time runs.
export function drawRing(picture) {
  const ring = get("ring");
  const { nodes, leader, room } = picture;
  const small = nodes.length > 7 ? 7 / nodes.length + 0.15 : 1;
  nodes.forEach((node, i) => places.set(node.id, place(i, nodes.length)));
  if (!ring.children.length) ring.append(svg("g"), svg("g"), svg("g"));
  const [cables, circles] = ring.children;
  const cut = new Set((room?.cut ?? []).map(([from, to]) => `${from}-${to}`));
  for (const { id, view } of nodes) for (const from of view?.status.deaf_to ?? []) cut.add(`${from}-${id}`);
  const lines = nodes.flatMap((one, i) => nodes.slice(i + 1).map((other) => [one.id, other.id]));
  sync(cables, lines, ([a, b]) => `${a}-${b}`, () => svg("line"), (line, [a, b]) => {
    const [from, to] = [places.get(a), places.get(b)];
    const isCut = cut.has(`${a}-${b}`) || cut.has(`${b}-${a}`);
    attributes(line, { x1: from.x, y1: from.y, x2: to.x, y2: to.y, class: isCut ? "cable cut" : "cable" });
  });
  arcs = [];
  sync(circles, nodes, (node) => node.id, makeNode, (group, node) => {
    const { id, view, shape, follower } = node;
    const at = places.get(id);
    const term = view ? view.status.term : null;
    attributes(group, { transform: `translate(${at.x.toFixed(1)},${at.y.toFixed(1)}) scale(${small})` });
    const [, arc, body, number, mark, word, of, more] = group.children;
    const [path, hollow] = SHAPES[shape];
    if (term === null) body.removeAttribute("fill");
    else attributes(body, { fill: colourOf(term) });
    attributes(body, { class: term === null ? "body unknown" : "body" });
    attributes(number, { class: term === null ? "number unknown-number" : "number" });
    set(number, String(id));
    attributes(mark, { d: path, class: `shape ${hollow}` });
    set(word, TEXT.role[shape]);
    set(of, term === null ? "" : TEXT.term(term));
    const votes = view?.consensus?.votes ?? [];
    const asking = ["candidate", "pre-candidate"].includes(shape);
    if (asking && votes.length) set(more, TEXT.votes(votes));
    else if (follower && follower.acknowledged_ms !== null && shape !== "dead") set(more, TEXT.heard(follower.acknowledged_ms));
    else if (picture.still && view?.status.voted_for) set(more, TEXT.play.voted(view.status.voted_for));
    else set(more, "");
    const left = view?.consensus?.election_in_ms ?? null;
    if (left === null) attributes(arc, { visibility: "hidden" });
    else arcs.push({ arc, left, at: performance.now(), view, still: picture.still });
  });
  set(get("ring-words"), nodes.map(({ id, view, shape }) =>
    TEXT.spoken(id, TEXT.role[shape], view ? view.status.term : null)).join(" "));
  drawArcs();
}

// Between two answers the time-out runs on. Each heartbeat of a living leader starts it again.
function drawArcs() {
  const now = performance.now();
  for (const { arc, left, at, view, still } of arcs) {
    const { heartbeat_ms, election_timeout_ms } = view.times;
    const refilled = view.status.leader !== null;
    const gone = calm.matches || still ? 0 : refilled ? (now - at) % heartbeat_ms : now - at;
    const part = Math.max(0, Math.min(1, (left - gone) / election_timeout_ms));
    const length = 2 * Math.PI * 34;
    attributes(arc, { visibility: "visible", "stroke-dasharray": `${(part * length).toFixed(1)} ${length.toFixed(1)}` });
  }
}

// A dot from one node to another; `lost` ones end halfway.
export function send(from, to, kind, delay, lost = false) {
  if (calm.matches || dots.length >= DOTS_MAX || !places.has(from) || !places.has(to) || from === to) return;
  const dot = svg("circle", { r: kind === "vote" ? 7 : 5, class: `dot ${lost ? "lost" : kind}`, visibility: "hidden" });
  get("ring").children[2].append(dot);
  dots.push({ dot, from: places.get(from), to: places.get(to), at: performance.now() + delay, end: lost ? 0.5 : 1 });
}

export function clearDots() {
  dots.forEach(({ dot }) => dot.remove());
  dots = [];
}

export function sendDots(picture) {
  const events = picture.views.flatMap((view) =>
    view.story.filter((event) => event.kind === "vote" || event.kind === "pre-vote")
      .map((event) => ({ from: view.status.node, to: event.other, at: event.at_us, key: `${view.status.node}-${event.at_us}` })));
  const first = seenStory === null;
  const seen = new Set(events.map((event) => event.key));
  const votes = first ? [] : events.filter((event) => !seenStory.has(event.key));
  seenStory = seen;
  for (const { from, to } of votes) send(from, to, "vote", 0);
  if (picture.leader) {
    const id = picture.leader.status.node;
    for (const follower of picture.leader.consensus?.followers ?? []) {
      if (follower.acknowledged_ms === null || follower.acknowledged_ms > 2 * picture.leader.times.heartbeat_ms) continue;
      send(id, follower.node, "", 0);
    }
  } else {
    for (const view of picture.views) {
      if (view.status.leader && view.age_ms <= 2 * view.times.heartbeat_ms) send(view.status.leader, view.status.node, "", 0);
    }
  }
}

export function frame() {
  if (!calm.matches) {
    const now = performance.now();
    dots = dots.filter(({ dot, from, to, at, end }) => {
      const part = (now - at) / DOT_MS;
      if (part >= end) {
        dot.remove();
        return false;
      }
      if (part >= 0) {
        const x = from.x + (to.x - from.x) * part;
        const y = from.y + (to.y - from.y) * part;
        attributes(dot, { cx: x.toFixed(1), cy: y.toFixed(1), visibility: "visible" });
      }
      return true;
    });
    drawArcs();
  }
}
