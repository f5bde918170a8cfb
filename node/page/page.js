// Asks /ui/state of the address that the page came from, twice a second while it is visible, and draws the answer.
//
// A node gives its own view only; the control room gives the views of all nodes. `read` makes one picture of the cluster
// from either. Text of others (names, reasons, log lines) is only ever set as textContent.

import { TEXT, seconds } from "./texts.js";
import { drawControl, startControl } from "./control.js";

const INTERVAL_MS = 500;
const ANSWER_TIMEOUT_MS = 3000;
// A view that is older than this is not taken for the present.
const OLD_MS = 3000;
const FRAME_MS = 80;
const DOT_MS = 480;
const DOTS_MAX = 60;
const CPU_POINTS_MAX = 60;
const REQUESTS_SHOWN = 10;
const STORY_SHOWN = 14;
const LINES_SHOWN = 40;
// White text on each has a contrast of 4.5:1 or more.
const TERM_COLOURS = ["#1f5fbf", "#a8430f", "#14713b", "#8a2f86", "#775900", "#b0214b", "#0b6b7a", "#565c66"];
const SVG = "http://www.w3.org/2000/svg";

const get = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const colourOf = (term) => TERM_COLOURS[term % TERM_COLOURS.length];
const majorityOf = (count) => Math.floor(count / 2) + 1;

// ------------------------------------------------------------------------------------------------ drawing

export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function attributes(element, values) {
  for (const [name, value] of Object.entries(values)) {
    const text = String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
  return element;
}

function svg(name, values = {}) {
  return attributes(document.createElementNS(SVG, name), values);
}

export function html(name, values = {}, ...children) {
  const element = attributes(document.createElement(name), values);
  element.append(...children);
  return element;
}

// Makes the children of `parent` those of `items`, in their order; keeps the element of a key, and with it the focus.
export function sync(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let element = known.get(key);
    known.delete(key);
    if (!element) {
      element = make(item);
      element.dataset.key = key;
    }
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
    update(element, item);
  }
  for (const gone of known.values()) gone.remove();
}

function cells(row, texts) {
  while (row.children.length < texts.length) row.append(html("td"));
  texts.forEach((text, i) => {
    const [words, name] = text;
    set(row.children[i], words);
    attributes(row.children[i], { class: name });
  });
}

function heads(table, texts, classes) {
  if (table.tHead.rows.length) return;
  const row = table.tHead.insertRow();
  texts.forEach((text, i) => row.append(html("th", { scope: "col", class: classes[i] ?? "" }, text)));
}

// ------------------------------------------------------------------------------------------ one picture of all

// What is known of the cluster: `nodes` (one for each member), `leader` (the view of the one that leads), `own`.
function read(state) {
  const room = state.room;
  const fresh = state.nodes.filter((node) => node.view && !node.silent && node.age_ms < OLD_MS);
  const any = state.nodes.filter((node) => node.view);
  const members = [...new Set(any.flatMap((node) => node.view.members).concat(state.nodes.map((node) => node.node)))];
  members.sort((a, b) => a - b);
  const leads = fresh.map((node) => node.view).filter((view) => view.status.role === "leader");
  leads.sort((a, b) => b.status.term - a.status.term);
  const leader = leads[0] ?? null;
  const nodes = members.map((id) => {
    const given = state.nodes.find((node) => node.node === id);
    const view = fresh.find((node) => node.node === id)?.view ?? null;
    const process = room?.processes[`node-${id}`] ?? null;
    const follower = leader?.consensus?.followers.find((follower) => follower.node === id) ?? null;
    let shape = view ? view.status.role : "unknown";
    if (process === "dead") shape = "dead";
    else if (process === "paused") shape = "paused";
    else if (!view && given) shape = "silent";
    return { id, view: process === "dead" ? null : view, follower, shape, silent: given?.silent ?? null };
  });
  const newest = any.map((node) => node.view).sort((a, b) => b.status.applied_index - a.status.applied_index)[0] ?? null;
  const oldest = Math.max(0, ...fresh.map((node) => node.age_ms));
  return { room, nodes, members, leader, leads, newest, oldest, views: fresh.map((node) => node.view), all: any };
}

// Whether a follower that has answered counts: it may have died since, or have no vote yet.
const counts = (node) => !node || !(node.view?.status.joining || ["dead", "paused", "silent"].includes(node.shape));

// How many votes the last round that was seen has got, while nobody leads.
let votesOfLate = null;

// The words, their colour, and the part of them that a screen reader says when it changes: an age changes all the time.
function headline(picture) {
  const { leader, views, members, room } = picture;
  const majority = majorityOf(members.length);
  if (!views.length) return [TEXT.nobodyAnswers, "bad"];
  if (leader) {
    votesOfLate = null;
    const { status, consensus, times } = leader;
    const followers = consensus?.followers ?? [];
    const answer = followers.filter(({ node, acknowledged_ms }) => acknowledged_ms !== null
      && acknowledged_ms <= times.election_timeout_ms
      && counts(picture.nodes.find(({ id }) => id === node)));
    const spare = answer.length + 1 - majority;
    return [
      TEXT.leads(status.node, status.term) +
        (consensus?.votes.length ? TEXT.electedBy(consensus.votes) : "") +
        (consensus ? TEXT.mayFail(Math.max(0, spare), members.length) : ""),
      spare > 0 ? "" : "warn",
    ];
  }
  const follows = views.filter((view) => view.status.leader !== null);
  if (!room && follows.length) return [TEXT.leads(follows[0].status.leader, follows[0].status.term), ""];
  const freshest = Math.min(...views.map((view) => view.age_ms));
  const served = TEXT.servedFrom(freshest);
  const asks = views.find((view) => view.status.role === "candidate")
    ?? views.find((view) => view.status.role === "pre-candidate");
  const votes = asks?.consensus?.votes.length ?? 0;
  if (votes > 0) votesOfLate = votes;
  if (room && views.length < majority) {
    const words = TEXT.noMajority(views.length, members.length);
    return [words + served, "bad", words];
  }
  if (asks && freshest < 2 * asks.times.election_timeout_ms) {
    return [TEXT.election(asks.status.node, asks.status.term, votes, majority), "warn"];
  }
  const known = votesOfLate !== null && votesOfLate < majority;
  const words = known ? TEXT.noMajority(votesOfLate, members.length) : TEXT.noLeader;
  return [words + served, "bad", words];
}

function warnings(picture) {
  const said = [];
  for (const { id, view, silent } of picture.nodes) {
    if (silent) said.push(TEXT.silentNode(id, silent));
    if (!view) continue;
    const { status } = view;
    for (const refusal of status.refusals) said.push(TEXT.refuses(id, refusal.node, refusal.reason));
    if (status.contradiction) said.push(status.contradiction);
    if (status.joining) said.push(TEXT.joining(id));
    for (const { id: server, also_reported } of status.servers) {
      if (also_reported) said.push(TEXT.twoDaemons(server, also_reported));
    }
    if (status.deaf_to?.length) said.push(TEXT.deaf(id, status.deaf_to));
    if (!view.consensus || status.stuck_ms) said.push(TEXT.loopBusy(id));
    if (!picture.leader) continue;
    const lead = picture.leader.status;
    if (status.role === "leader" && id !== lead.node) said.push(TEXT.alsoLeads(id, status.term));
    else if (status.leader === null) said.push(TEXT.noLeaderAt(id, status.term));
    else if (status.leader !== lead.node) said.push(TEXT.otherLeader(id, status.leader, status.term));
  }
  const tables = new Map();
  for (const { status } of picture.views) {
    const before = tables.get(status.applied_index);
    if (before && before.state_digest !== status.state_digest) {
      said.push(TEXT.otherState(before.node, status.node, status.applied_index));
    } else tables.set(status.applied_index, status);
  }
  return said;
}

// ------------------------------------------------------------------------------------------------ the ring

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

function drawRing(picture) {
  const ring = get("ring");
  const { nodes, leader, room } = picture;
  const small = nodes.length > 7 ? 7 / nodes.length + 0.15 : 1;
  nodes.forEach((node, i) => places.set(node.id, place(i, nodes.length)));
  let [cables, circles, moving] = ring.children;
  if (!cables) {
    ring.append(svg("g"), svg("g"), svg("g"));
    [cables, circles, moving] = ring.children;
  }
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
    else set(more, "");
    const left = view?.consensus?.election_in_ms ?? null;
    if (left === null) attributes(arc, { visibility: "hidden" });
    else arcs.push({ arc, left, at: performance.now(), view });
  });
  set(get("ring-words"), nodes.map(({ id, view, shape }) =>
    TEXT.spoken(id, TEXT.role[shape], view ? view.status.term : null)).join(" "));
  drawArcs();
  sendDots(picture, moving);
}

// Between two answers the time-out runs on. Each heartbeat of a living leader starts it again.
function drawArcs() {
  const now = performance.now();
  for (const { arc, left, at, view } of arcs) {
    const { heartbeat_ms, election_timeout_ms } = view.times;
    const refilled = view.status.leader !== null;
    const gone = calm.matches ? 0 : refilled ? (now - at) % heartbeat_ms : now - at;
    const part = Math.max(0, Math.min(1, (left - gone) / election_timeout_ms));
    const length = 2 * Math.PI * 34;
    attributes(arc, { visibility: "visible", "stroke-dasharray": `${(part * length).toFixed(1)} ${length.toFixed(1)}` });
  }
}

function sendDots(picture, moving) {
  const events = picture.views.flatMap((view) =>
    view.story.filter((event) => event.kind === "vote" || event.kind === "pre-vote")
      .map((event) => ({ from: view.status.node, to: event.other, at: event.at_us, key: `${view.status.node}-${event.at_us}` })));
  const first = seenStory === null;
  const seen = new Set(events.map((event) => event.key));
  const votes = first ? [] : events.filter((event) => !seenStory.has(event.key));
  seenStory = seen;
  if (calm.matches) return;
  const now = performance.now();
  const send = (from, to, kind, delay) => {
    if (dots.length >= DOTS_MAX || !places.has(from) || !places.has(to) || from === to) return;
    const dot = svg("circle", { r: kind === "vote" ? 7 : 5, class: `dot ${kind}`, visibility: "hidden" });
    moving.append(dot);
    dots.push({ dot, from: places.get(from), to: places.get(to), at: now + delay });
  };
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

function frame() {
  if (!calm.matches) {
    const now = performance.now();
    dots = dots.filter(({ dot, from, to, at }) => {
      const part = (now - at) / DOT_MS;
      if (part >= 1) {
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

// ------------------------------------------------------------------------------------------------ the logs

function drawLogs(picture) {
  const views = picture.nodes.map(({ view }) => view).filter((view) => view?.consensus);
  const last = Math.max(1, ...views.map((view) => view.status.last_index));
  const shown = Math.max(8, ...views.map((view) => view.consensus.log_terms.reduce((sum, [, count]) => sum + count, 0)));
  const from = Math.max(1, last - shown + 1);
  const lead = picture.leader?.consensus ? picture.leader : null;
  sync(get("logs").tBodies[0], picture.nodes, (node) => node.id, () => {
    const strip = svg("svg", { preserveAspectRatio: "none", role: "img" });
    return html("tr", {}, html("th", { scope: "row" }), html("td", {}, strip, html("span", { class: "legend" })));
  }, (row, { id, view, follower }) => {
    set(row.children[0], TEXT.node(id));
    const [strip, words] = row.children[1].children;
    attributes(strip, { viewBox: `0 0 ${shown} 10` });
    let [runs, upTo, commit] = [[], 0, 0];
    if (view?.consensus) {
      let at = view.consensus.log_from;
      for (const [term, count] of view.consensus.log_terms) for (let i = 0; i < count; i++) runs.push([at++, term]);
      [upTo, commit] = [view.status.last_index, view.status.commit_index];
      set(words, TEXT.indexes(upTo, commit));
      attributes(strip, { "aria-label": TEXT.logSpoken(id, upTo, commit) });
    } else if (follower?.match_index > 0 && lead) {
      // Equal to the leader's up to here (Log Matching): what else is in it, nobody here knows.
      let at = lead.consensus.log_from;
      for (const [term, count] of lead.consensus.log_terms) for (let i = 0; i < count; i++) runs.push([at++, term]);
      upTo = follower.match_index;
      runs = runs.filter(([index]) => index <= upTo);
      set(words, TEXT.matched(upTo));
      attributes(strip, { "aria-label": TEXT.matched(upTo) });
    } else {
      set(words, TEXT.logUnknown);
      attributes(strip, { "aria-label": TEXT.logUnknown });
    }
    runs = runs.filter(([index]) => index >= from);
    const parts = runs.map(([index, term]) => ({ index, term }));
    if (commit >= from) parts.push({ commit });
    sync(strip, parts, (part) => part.index ?? "commit", (part) =>
      part.commit ? svg("line", { class: "commit", y1: 0, y2: 10 }) : svg("rect", { class: "cell", y: 1, height: 8, width: 1 }),
    (element, part) => {
      const x = (part.commit ?? part.index - 1) - from + 1;
      if (part.commit) attributes(element, { x1: x, x2: x });
      else attributes(element, { x, fill: colourOf(part.term) });
    });
  });
}

// ------------------------------------------------------------------------------------------------ the servers

const cpuOf = new Map();

function drawServers(picture) {
  const { newest, views, nodes } = picture;
  const table = get("servers");
  heads(table, TEXT.serverHeads, ["", "", "", "", "chosen"]);
  const servers = newest ? newest.status.servers : [];
  const of = (view, id) => {
    const at = view.status.servers.findIndex((server) => server.id === id);
    return at < 0 ? null : { ...view.status.servers[at], ...view.servers[at], node: view.status.node };
  };
  const everyChoice = views.flatMap((view) => view.servers.map((server) => server.chosen)).reduce((a, b) => a + b, 0);
  const rows = servers.map((server, i) => {
    const own = views.map((view) => of(view, server.id)).filter((one) => one);
    // Where a node's own count is known, it goes before what another node heard of it.
    const counts = new Map();
    for (const one of own) for (const [id, count] of Object.entries(one.in_flight)) {
      const node = Number(id);
      if (node === one.node || !own.some((other) => other.node === node)) counts.set(node, count);
    }
    const flying = [...counts].filter(([, count]) => count > 0).sort(([a], [b]) => a - b);
    const more = newest.servers[i];
    const who = (flag) => own.filter((one) => one[flag]).map((one) => one.node);
    return { server, more, flying, chosen: own.reduce((sum, one) => sum + one.chosen, 0), stalled: who("stalled"), avoided: who("avoided") };
  });
  const freshNodes = nodes.some((node) => node.view);
  const led = picture.leader || views.some((view) => view.status.leader !== null);
  sync(table.tBodies[0], rows, (row) => row.server.id, () => {
    const spark = svg("svg", { viewBox: "0 0 60 20", preserveAspectRatio: "none", role: "img" });
    spark.append(svg("rect", { width: 60, height: 20 }), svg("polyline"));
    return html("tr", {}, html("th", { scope: "row" }), html("td", {}, html("div", { class: "cpu" }, html("span"), spark)),
      html("td", { class: "state" }), html("td"), html("td", { class: "chosen" }));
  }, (row, { server, more, flying, chosen, stalled, avoided }) => {
    set(row.children[0], server.id);
    const [words, spark] = row.children[1].firstElementChild.children;
    set(words, TEXT.cpu(server.cpu_known ? server.cpu : null));
    const before = cpuOf.get(server.id) ?? { stamp: "", points: [] };
    const stamp = `${server.epoch}/${server.sequence}`;
    if (before.stamp !== stamp && server.cpu_known) {
      before.points.push(server.cpu);
      if (before.points.length > CPU_POINTS_MAX) before.points.shift();
      before.stamp = stamp;
      cpuOf.set(server.id, before);
    }
    const offset = CPU_POINTS_MAX - before.points.length;
    attributes(spark.lastElementChild, { points: before.points.map((cpu, i) => `${offset + i},${(19 - cpu * 0.18).toFixed(1)}`).join(" ") });
    attributes(spark, { "aria-label": TEXT.cpuSpoken(before.points.slice(-5)) });
    const { report_interval_ms, server_timeout_ms } = newest.times;
    const late = freshNodes && more.report_age_ms > 2.5 * report_interval_ms;
    let state = [TEXT.alive, "state good"];
    if (!server.alive) state = [TEXT.dead(more.decided_at), "state bad"];
    else if (late && !led) state = [TEXT.undecided(more.report_age_ms), "state warn"];
    else if (late) state = [TEXT.silent(more.report_age_ms, server_timeout_ms), "state warn"];
    else if (!server.worker_up) state = [TEXT.noWorker, "state warn"];
    else if (stalled.length) state = [TEXT.stalled(stalled), "state warn"];
    else if (avoided.length) state = [TEXT.avoided(avoided), "state warn"];
    set(row.children[2], state[0]);
    attributes(row.children[2], { class: state[1] });
    set(row.children[3], TEXT.inFlight(flying));
    set(row.children[4], TEXT.chosen(chosen, everyChoice ? (100 * chosen) / everyChoice : 0));
  });
  const hidden = newest?.servers_hidden ?? 0;
  const note = servers.length ? (hidden ? `${TEXT.moreServers(hidden)}. ` : "") + TEXT.legends.servers : TEXT.noServers;
  set(get("servers-legend"), note);
}

// ----------------------------------------------------------------------------------------------- the requests

const clock = (us) => new Date(us / 1000).toTimeString().slice(0, 8);

function drawRequests(picture) {
  const table = get("requests");
  heads(table, TEXT.requestHeads, ["at", "number", "node", "", "", "number", "number tries"]);
  const all = picture.all.flatMap(({ view }) => view.requests.map((request) => ({ ...request, node: view.status.node })));
  all.sort((a, b) => b.at_us - a.at_us);
  sync(table.tBodies[0], all.slice(0, REQUESTS_SHOWN), (one) => `${one.node}-${one.at_us}-${one.sequence}`, () => html("tr"), (row, one) => {
    cells(row, [
      [clock(one.at_us), "at"], [one.n, "number"], [String(one.node), "node"],
      one.server === null ? [TEXT.noAnswer(one.status), "server bad"] : [one.server, "server"], [TEXT.why(one.compared, one.server), "why"],
      [one.ms.toFixed(1), "number"], [(one.tries ? String(one.tries) : "–") + (one.hedged ? TEXT.hedged : ""), "number tries"],
    ]);
  });
  set(get("requests-legend"), all.length ? TEXT.legends.requests : TEXT.noRequests);
}

// ------------------------------------------------------------------------------------------------- the story

// The events of all views as sentences, each with the lines that say it. An election is one sentence.
function tell(picture) {
  const events = picture.all.flatMap(({ view }) => view.story.map((event) => ({ ...event, node: view.status.node })));
  events.sort((a, b) => a.at_us - b.at_us || a.node - b.node);
  const items = [];
  const byKey = new Map();
  let election = null;
  const line = (event) => `${clock(event.at_us)} ${event.line}`;
  const add = (key, event, sentence) => {
    let item = byKey.get(key);
    if (!item) {
      item = { key, at: event.at_us, sentence, lines: [] };
      byKey.set(key, item);
      items.push(item);
    }
    item.lines.push(line(event));
  };
  const asked = (event) => {
    election ??= { at: event.at_us, asked: new Set(), lines: [] };
    election.lines.push(line(event));
    return election;
  };
  for (const event of events) {
    const { kind, node, term } = event;
    if (kind === "leads") {
      const key = `leads-${node}-${term}`;
      add(key, event, TEXT.story.leads(node, term, election ? (event.at_us - election.at) / 1000 : null));
      if (election) byKey.get(key).lines.unshift(...election.lines);
      election = null;
    } else if (kind === "leader-lost") {
      // A node that is cut off loses a leader that still leads.
      if (!picture.views.some((view) => view.status.node === event.other && view.status.role === "leader" && view.status.term === term)) {
        add(`lost-${event.other}-${term}`, event, TEXT.story.lost(event.other, term, event.reason ?? ""));
      }
      asked(event);
    } else if (kind === "pre-candidate" || kind === "candidate") {
      asked(event).asked.add(node);
    } else if (kind === "vote" || kind === "pre-vote" || kind === "follower") {
      if (election) asked(event);
    } else if (kind === "leader-found") {
      const led = byKey.get(`leads-${event.other}-${term}`);
      if (led) led.lines.push(line(event));
      if (!picture.room) {
        if (!led) add(`leads-${event.other}-${term}`, event, TEXT.story.leads(event.other, term, null));
        election = null;
      }
    } else if (kind === "truncated") add(`cut-${node}-${event.at_us}`, event, TEXT.story.truncated(node, event.index));
    else if (kind === "snapshot-installed") add(`snap-${node}-${event.at_us}`, event, TEXT.story.snapshot(node, event.index));
    else if (kind === "overdue") add(`overdue-${event.server}-${event.at_us}`, event, TEXT.story.overdue(event.server));
    else if (TEXT.story[kind]) add(`${kind}-${event.server}-${event.index}`, event, TEXT.story[kind](event.server, event.index));
  }
  if (election?.asked.size && !picture.leader) {
    const key = `trying-${election.at}`;
    items.push({ key, at: election.at, sentence: TEXT.story.trying([...election.asked].sort((a, b) => a - b)), lines: election.lines });
  }
  return items.reverse().slice(0, STORY_SHOWN);
}

function drawStory(picture) {
  sync(get("story"), tell(picture), (item) => item.key, () =>
    html("li", {}, html("details", {}, html("summary", {}, html("time"), html("span")), html("pre"))),
  (element, item) => {
    const [summary, lines] = element.firstElementChild.children;
    set(summary.children[0], clock(item.at));
    set(summary.children[1], item.sentence);
    set(lines, item.lines.slice(-LINES_SHOWN).join("\n"));
  });
}

// ------------------------------------------------------------------------------------------------- the page

let answeredAt = null;
let timer = null;
let asking = false;

function draw(state) {
  const picture = read(state);
  const [words, kind, spoken] = headline(picture);
  set(get("headline"), words);
  set(get("spoken"), spoken ?? words);
  attributes(get("headline"), { class: kind });
  const cluster = picture.newest?.status.cluster ?? "";
  document.title = TEXT.title(cluster, words);
  set(get("whose"), picture.room
    ? TEXT.viewsOf(picture.views.length, picture.members.length, picture.oldest)
    : TEXT.viewOf(state.nodes[0].node));
  sync(get("warnings"), [...new Set(warnings(picture))], (said) => said, () => html("li"), set);
  drawRing(picture);
  drawServers(picture);
  drawLogs(picture);
  drawRequests(picture);
  drawStory(picture);
  drawControl(picture);
}

async function ask() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch("/ui/state", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    if (!answer.ok) throw new Error(String(answer.status));
    draw(await answer.json());
    answeredAt = performance.now();
    get("lost").hidden = true;
    document.body.classList.remove("old");
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof DOMException)) console.error(error);
    lost();
  }
  asking = false;
  if (!document.hidden) timer = setTimeout(ask, INTERVAL_MS);
}

function lost() {
  get("lost").hidden = false;
  document.body.classList.add("old");
  set(get("lost"), TEXT.lost(location.host, answeredAt === null ? 0 : performance.now() - answeredAt));
}

for (const [name, title] of Object.entries(TEXT.titles)) set(get(`${name}-title`), title);
for (const [name, legend] of Object.entries(TEXT.legends)) set(get(`${name}-legend`), legend);
set(get("headline"), TEXT.waiting);
startControl();
document.addEventListener("visibilitychange", ask);
setInterval(() => document.hidden || frame(), FRAME_MS);
ask();
