// Asks /ui/state of the address that the page came from, twice a second while it is visible, and draws the answer.
//
// A node gives its own view only; the control room gives the views of all nodes. `read` makes one picture of the
// cluster from either. play.js takes over while a recording is shown.

import { TEXT, startLanguages } from "./texts.js";
import { attributes, get, html, set, svg, sync } from "./drawing.js";
import { drawRing, frame, sendDots } from "./ring.js";
import { drawLogs } from "./logs.js";
import { drawControl, startControl } from "./control.js";
import { isPlaying, startPlays } from "./play.js";

const INTERVAL_MS = 500;
const ANSWER_TIMEOUT_MS = 3000;
// A view that is older than this is not taken for the present.
const OLD_MS = 3000;
// When the newest report of a server is older than so many report intervals, the next one is late.
const LATE_INTERVALS = 2.5;
const FRAME_MS = 80;
const CPU_POINTS_MAX = 60;
const REQUESTS_SHOWN = 10;
const STORY_SHOWN = 14;
const LINES_SHOWN = 40;

const majorityOf = (count) => Math.floor(count / 2) + 1;

// ------------------------------------------------------------------------------------------ one picture of all

// What is known of the cluster: `nodes` (one for each member), `leader` (the view of the one that leads), `own`.
function read(state) {
  const room = state.room;
  const fresh = state.nodes.filter((node) => node.view && !node.silent && node.age_ms < OLD_MS);
  const any = state.nodes.filter((node) => node.view);
  const members = [...new Set(any.flatMap((node) => node.view.members).concat(state.nodes.map((node) => node.node)))];
  members.sort((a, b) => a - b);
  // Those of the newest list that vote: a majority is one of these.
  const list = any.map((node) => node.view.status).sort((a, b) => b.members_index - a.members_index)[0]?.members ?? [];
  const voting = list.filter((member) => member.voter).map((member) => member.id);
  const voters = voting.length ? voting : members;
  const leads = fresh.map((node) => node.view).filter((view) => view.status.role === "leader");
  leads.sort((a, b) => b.status.term - a.status.term);
  const leader = leads[0] ?? null;
  const nodes = members.map((id) => {
    const given = state.nodes.find((node) => node.node === id);
    const view = fresh.find((node) => node.node === id)?.view ?? null;
    const process = room?.processes[`node-${id}`] ?? null;
    const follower = leader?.consensus?.followers.find((follower) => follower.node === id) ?? null;
    // A node that answers is alive, also if it is another process than the one that the control room started.
    let shape = "unknown";
    if (process === "paused") shape = process;
    else if (view) shape = view.status.role;
    else if (process === "dead") shape = process;
    else if (given) shape = "silent";
    return { id, view, follower, shape, silent: given?.silent ?? null, votes: voters.includes(id) };
  });
  const newest = any.map((node) => node.view).sort((a, b) => b.status.applied_index - a.status.applied_index)[0] ?? null;
  const oldest = Math.max(0, ...fresh.map((node) => node.age_ms));
  // A node's own page asks that node alone: what the others are, it does not know.
  const allAsked = state.nodes.length >= members.length;
  const views = fresh.map((node) => node.view);
  return { room, nodes, members, voters, allAsked, leader, leads, newest, oldest, views, all: any };
}

// Whether a follower that has answered counts: it may have died since, or have no vote.
const counts = (node) => node?.votes
  && !(node.view?.status.joining || ["dead", "paused", "silent"].includes(node.shape));

// How many votes the last round that was seen has got, while nobody leads.
let votesOfLate = null;

// The words, their colour, and the part of them that a screen reader says when it changes: an age changes all the time.
function headline(picture) {
  const { leader, views, voters, allAsked } = picture;
  const majority = majorityOf(voters.length);
  if (!views.length) return [TEXT.nobodyAnswers, "bad"];
  if (leader) {
    votesOfLate = null;
    const { status, consensus, times } = leader;
    const followers = consensus?.followers ?? [];
    const answer = followers.filter(({ node, acknowledged_ms }) => acknowledged_ms !== null
      && acknowledged_ms <= times.election_timeout_ms
      && counts(picture.nodes.find(({ id }) => id === node)));
    // A leader that is to leave does not count itself.
    const spare = answer.length + (voters.includes(status.node) ? 1 : 0) - majority;
    return [
      TEXT.leads(status.node, status.term) +
        (consensus?.votes.length ? TEXT.electedBy(consensus.votes) : "") +
        (consensus ? TEXT.mayFail(Math.max(0, spare), voters.length) : ""),
      spare > 0 ? "" : "warn",
    ];
  }
  const follows = views.filter((view) => view.status.leader !== null);
  if (!allAsked && follows.length) return [TEXT.leads(follows[0].status.leader, follows[0].status.term), ""];
  const freshest = Math.min(...views.map((view) => view.age_ms));
  const served = TEXT.servedFrom(freshest);
  const asks = views.find((view) => view.status.role === "candidate")
    ?? views.find((view) => view.status.role === "pre-candidate");
  const votes = asks?.consensus?.votes.length ?? 0;
  if (votes > 0) votesOfLate = votes;
  const answering = views.filter((view) => voters.includes(view.status.node)).length;
  if (allAsked && answering < majority) {
    const words = TEXT.noMajority(answering, voters.length);
    return [words + served, "bad", words];
  }
  if (asks && freshest < 2 * asks.times.election_timeout_ms) {
    return [TEXT.election(asks.status.node, asks.status.term, votes, majority), "warn"];
  }
  const known = votesOfLate !== null && votesOfLate < majority;
  const words = known ? TEXT.noMajority(votesOfLate, voters.length) : TEXT.noLeader;
  return [words + served, "bad", words];
}

function warnings(picture) {
  const said = [];
  for (const { id, view, silent } of picture.nodes) {
    if (silent) said.push(TEXT.silentNode(id, silent));
    if (!view) continue;
    const { status } = view;
    for (const refusal of status.refusals) said.push(TEXT.refuses(id, refusal.node, refusal.reason));
    if (status.contradiction) said.push(TEXT.said(status.contradiction));
    if (status.joining) said.push(TEXT.joining(id));
    for (const { id: server, also_reported } of status.servers) {
      if (also_reported) said.push(TEXT.twoDaemons(server, also_reported));
    }
    if (status.deaf_to?.length) said.push(TEXT.deaf(id, status.deaf_to));
    for (const lost of status.loses ?? []) said.push(TEXT.loses[lost](id));
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

// ------------------------------------------------------------------------------------------------ tables

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
    const late = freshNodes && more.report_age_ms > LATE_INTERVALS * report_interval_ms;
    let state = [TEXT.alive, "state good"];
    if (!server.alive) state = [TEXT.dead(more.decided_at), "state bad"];
    else if (late && !led) state = [TEXT.undecided(more.report_age_ms), "state warn"];
    else if (late) state = [TEXT.silent(more.report_age_ms, server_timeout_ms), "state warn"];
    else if (server.drained) state = [TEXT.drained, "state warn"];
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
  sendDots(picture);
  drawServers(picture);
  drawLogs(picture);
  drawRequests(picture);
  drawStory(picture);
  drawControl(picture);
}

async function ask() {
  clearTimeout(timer);
  if (asking || document.hidden || isPlaying()) return;
  asking = true;
  const state = await answer();
  asking = false;
  // Somebody may have chosen a recording meanwhile.
  if (isPlaying()) return;
  // The next question comes in any case, also if this picture can't be drawn.
  if (!document.hidden) timer = setTimeout(ask, INTERVAL_MS);
  if (!state) return lost();
  draw(state);
  answeredAt = performance.now();
  get("lost").hidden = true;
  document.body.classList.remove("old");
}

async function answer() {
  try {
    const found = await fetch("/ui/state", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    return found.ok ? await found.json() : null;
  } catch {
    return null;
  }
}

function lost() {
  get("lost").hidden = false;
  document.body.classList.add("old");
  set(get("lost"), TEXT.lost(location.host, answeredAt === null ? 0 : performance.now() - answeredAt));
}

for (const [name, title] of Object.entries(TEXT.titles)) set(get(`${name}-title`), title);
for (const [name, legend] of Object.entries(TEXT.legends)) set(get(`${name}-legend`), legend);
set(get("headline"), TEXT.waiting);
startLanguages();
startControl();
startPlays(ask);
document.addEventListener("visibilitychange", ask);
setInterval(() => document.hidden || frame(), FRAME_MS);
ask();
