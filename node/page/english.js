// Every sentence of the page in English; indonesian.js has the same. texts.js chooses; docs/page.md says what they
// mean.

const list = (items) => items.join(", ");
const percent = (value) => (value === null ? "unknown" : `${value.toFixed(1)} %`);

const seconds = (ms) =>
  ms < 1000 ? `${Math.max(0, Math.round(ms))} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s`;

export const ENGLISH = {
  titles: {
    ring: "The nodes",
    servers: "The servers",
    logs: "The logs",
    requests: "The last requests",
    story: "What happened",
    control: "Steer this cluster",
    play: "What this step means",
  },
  legends: {
    ring:
      "Colour: the term. Ring around a node: the time until it calls an election. Dots: answered heartbeats " +
      "(a sample) and votes.",
    servers: "All nodes agree on load and life. In flight: node:requests, as each node counts its own.",
    logs: "One cell is one entry; colour: its term. All left of the thick line is committed: a majority has it.",
    requests: "Among loads that are nearly equal, the server is drawn. A busy node shows a sample.",
    play: "Keys: → next, ← back, R run by itself, Esc the live cluster.",
    story: "Open a sentence to read the lines of the log files that say it.",
  },

  title: (cluster, headline) => `${headline} – Rakit ${cluster}`,
  show: "Show",
  live: "this cluster, live",
  language: "Language",
  // What a node or the control room says, in its own words.
  said: (text) => text,
  waiting: "Waiting for the first answer …",

  // The headline.
  leads: (node, term) => `node ${node} leads term ${term}`,
  electedBy: (nodes) => `, elected by ${list(nodes)}`,
  mayFail: (count, of) => (count > 0 ? ` · ${count} of ${of} may still fail` : " · no other node may fail"),
  noMajority: (count, of) => `NO MAJORITY: ${count} of ${of}.`,
  noLeader: "NO LEADER.",
  election: (node, term, votes, needed) =>
    `ELECTION: node ${node} asks for votes in term ${term} and has ${votes} of the ${needed} it needs.`,
  servedFrom: (ms) => ` Primes are served from a state ${seconds(ms)} old`,
  nobodyAnswers: "No node answers.",

  // Whose view.
  viewOf: (node) => `As node ${node} sees it. It knows of the others only what they tell it.`,
  viewsOf: (count, of, oldest) =>
    `The control room: the views of ${count} of ${of} nodes, the oldest ${seconds(oldest)} old.`,
  lost: (host, ms) => `${host} does not answer this page. What you see is ${seconds(ms)} old.`,

  // Warnings.
  silentNode: (node, why) => `node ${node} does not answer: ${why}`,
  otherLeader: (node, leader, term) => `node ${node} follows node ${leader} in term ${term}`,
  noLeaderAt: (node, term) => `node ${node} knows no leader (term ${term})`,
  alsoLeads: (node, term) => `node ${node} says that it leads term ${term}, which is over`,
  refuses: (node, other, reason) => `node ${node} does not work with node ${other}: ${reason}`,
  joining: (node) => `node ${node} began without memory: it has no vote until the leader has filled its log`,
  twoDaemons: (server, worker) => `two daemons say that they are ${server}; the one with the worker ${worker} is refused`,
  deaf: (node, others) => `cut: nothing arrives at node ${node} from node ${list(others)}`,
  loses: {
    heartbeats: (node) => `by order: no heartbeat arrives at node ${node}`,
    votes: (node) => `by order: no vote arrives at node ${node}`,
    "next-vote": (node) => `by order: the next election of node ${node} fails`,
  },
  otherState: (one, other, index) => `nodes ${one} and ${other} have different tables at log index ${index}`,
  loopBusy: (node) => `node ${node}: its Raft loop does not answer; its disk may hang`,

  // The ring.
  role: {
    leader: "leader", candidate: "candidate", "pre-candidate": "pre-candidate", follower: "follower",
    dead: "dead", paused: "paused", silent: "no answer", unknown: "not known here",
  },
  term: (term) => `term ${term}`,
  votes: (nodes) => `votes: ${list(nodes)}`,
  heard: (ms) => `answered ${seconds(ms)} ago`,
  spoken: (node, role, term) => `Node ${node}: ${role}${term === null ? "" : `, term ${term}`}.`,

  // The logs.
  node: (node) => `node ${node}`,
  indexes: (last, commit) => `${last} entries, ${commit} committed`,
  matched: (last) => `up to ${last}, as the leader knows`,
  logUnknown: "not known here",
  logSpoken: (node, last, commit) => `Log of node ${node}: ${last} entries, committed up to ${commit}`,

  inSnapshot: (index) => `, snapshot up to ${index}`,

  // A recording.
  play: {
    headline: (title, step, of) => `${title} · step ${step} of ${of}`,
    kind: (where) => `A recording of Rakit's own Raft core, not the live cluster · ${where}`,
    paper: (section) => `Raft paper ${section}`,
    thesis: (section) => `Raft thesis ${section}`,
    back: "◂ back", next: "next ▸", run: "run", hold: "stop",
    lines: (count) => `What the core said: ${count} lines`,
    voted: (node) => `voted for ${node}`,
    cut: (cables) => `Cut cables: ${list(cables)}`,
    missing: (name) => `There is no recording "${name}".`,
  },

  // The servers.
  serverHeads: ["server", "CPU", "state", "in flight", "chosen"],
  noServers: "no server has reported yet",
  moreServers: (count) => `and ${count} more`,
  alive: "● alive",
  silent: (ms, limit) => `◐ silent for ${seconds(ms)}; dead at ${seconds(limit)}`,
  undecided: (ms) => `◐ no report agreed for ${seconds(ms)}: that needs a leader`,
  dead: (index) => `✕ dead by log index ${index}`,
  noWorker: "○ no worker",
  drained: "○ drained by order",
  stalled: (nodes) => `⏸ stalled for node ${list(nodes)}`,
  avoided: (nodes) => `▽ avoided by node ${list(nodes)}`,
  cpu: percent,
  cpuSpoken: (percents) => `CPU of late: ${list(percents.map(percent))}`,
  inFlight: (counts) => (counts.length ? counts.map(([node, count]) => `${node}:${count}`).join(" ") : "–"),
  chosen: (count, share) => `${count} (${share.toFixed(0)}\u00a0%)`,

  // The requests.
  requestHeads: ["at", "N", "node", "server", "why", "ms", "tries"],
  noRequests: "none yet: ask any node for a prime, /1000 for instance",
  why: (loads, chosen) => {
    if (!loads.length) return "–";
    if (loads.length === 1) return `the only one that may be chosen (${percent(loads[0][1])})`;
    const one = ([server, load]) => `${server === chosen ? "▸" : ""}${server} ${percent(load)}`;
    return loads.map(one).join(" · ");
  },
  noAnswer: (status) => `none (${status})`,
  hedged: ", as the first had stalled",

  // The story.
  story: {
    leads: (node, term, ms) =>
      `Node ${node} leads term ${term}${ms === null ? "" : `, elected in ${seconds(ms)}`}.`,
    lost: (leader, term, reason) => `The leader, node ${leader} of term ${term}, was lost: ${reason}.`,
    trying: (nodes) =>
      `${nodes.length === 1 ? `Node ${nodes[0]} asks` : `Nodes ${list(nodes)} ask`} for votes; nobody is elected yet.`,
    truncated: (node, index) => `Node ${node} drops what was never committed, from log index ${index} on.`,
    snapshot: (node, index) => `Node ${node} got the leader's snapshot up to log index ${index}.`,
    overdue: (server) => `The leader proposes that ${server} is dead.`,
    "server-new": (server, index) => `${server} is new (log index ${index}).`,
    "server-dead": (server, index) => `${server} is dead: so the nodes agreed at log index ${index}.`,
    "server-back": (server, index) => `${server} is alive again (log index ${index}).`,
    "worker-up": (server, index) => `${server} gets requests again: its worker listens (log index ${index}).`,
    "server-drained": (server, index) => `${server} is drained by order: it gets no new requests (log index ${index}).`,
    "server-undrained": (server, index) => `${server} is undrained by order: it may get requests again (log index ${index}).`,
    "server-forgotten": (server, index) => `${server} is forgotten by order (log index ${index}).`,
    "worker-down": (server, index) => `${server} gets no requests: its worker does not listen (log index ${index}).`,
  },

  // The control room.
  noToken: "To steer, open the address with the token that `rakit up` printed.",
  process: { running: "runs", paused: "paused", dead: "dead" },
  orders: { kill: "kill", pause: "pause", resume: "resume", start: "start", restart: "restart" },
  orderSpoken: (order, name) => `${order} ${name}`,
  cables: "Cables", between: "node", and: "and", allOthers: "all others", oneWay: "only from the first",
  cut: "cut", heal: "heal", healAll: "heal all",
  messages: "Messages", to: "to node", dropHeartbeats: "drop heartbeats", dropVotes: "drop votes", failVote: "fail the next vote",
  letThrough: "let all through",
  requests: "Requests", perSecond: "per second, of N", send: "send", stop: "stop",
  load: "Load", onServer: "server", ofCores: "% of its processors", put: "put",
  failed: (why) => `✕ ${why}`,
  done: (what) => `✓ ${what}`,
};
