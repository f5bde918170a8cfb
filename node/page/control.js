// The buttons of the control room: each sends one order to /ui/order, as `rakit ctl` does, and shows what was done.
//
// The token comes in the address that `rakit up` prints, after `#`: browsers send that part to nobody. It is kept for
// this tab only, and taken out of the address bar, which a class may see on the projector.

import { TEXT } from "./texts.js";
import { get, html, set, sync } from "./drawing.js";

const TOKEN = "rakit-token";
const ORDERS = ["kill", "pause", "resume", "start", "restart"];
// Which orders make sense for a process in this state.
const POSSIBLE = {
  running: ["kill", "pause", "restart"],
  paused: ["kill", "resume", "restart"],
  dead: ["start"],
};
const N_DEFAULT = 100000;
const RATE_DEFAULT = 20;
const PERCENT_DEFAULT = 80;

let drawn = false;

export function startControl() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  sessionStorage.setItem(TOKEN, token);
  history.replaceState(null, "", location.pathname);
}

async function order(what) {
  const said = get("control-said");
  said.className = "";
  try {
    const answer = await fetch("/ui/order", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Rakit-Token": sessionStorage.getItem(TOKEN) ?? "" },
      body: JSON.stringify(what),
    });
    const words = (await answer.text()).trim();
    said.className = answer.ok ? "good" : "bad";
    set(said, answer.ok ? TEXT.done(words) : TEXT.failed(words));
  } catch (error) {
    said.className = "bad";
    set(said, TEXT.failed(error.message));
  }
}

function button(words, spoken, action) {
  const made = html("button", { type: "button" }, words);
  if (spoken) made.setAttribute("aria-label", spoken);
  made.addEventListener("click", () => made.getAttribute("aria-disabled") !== "true" && action());
  return made;
}

function number(name, value, min, max) {
  return html("input", { type: "number", name, value, min, max, "aria-label": name, required: "" });
}

function form(title, ...children) {
  const made = html("form", {}, html("strong", {}, title), ...children);
  made.addEventListener("submit", (event) => event.preventDefault());
  return made;
}

function select(name, spoken, options) {
  const made = html("select", { name, "aria-label": spoken });
  for (const [value, words] of options) made.append(html("option", { value }, words));
  return made;
}

// The forms are made once: what somebody is typing must stay.
function makeForms(picture) {
  const nodes = picture.members.map((id) => [id, TEXT.node(id)]);
  const from = select("from", TEXT.between, nodes);
  const to = select("to", TEXT.and, [["", TEXT.allOthers], ...nodes]);
  const oneWay = html("input", { type: "checkbox", name: "one-way" });
  const link = (what) => () => order({
    order: what, node: Number(from.value), other: to.value === "" ? null : Number(to.value), one_way: oneWay.checked,
  });
  const healAll = async () => {
    for (const id of picture.members) await order({ order: "heal", node: id, other: null, one_way: false });
  };
  get("orders").append(form(TEXT.cables, from, TEXT.and, to, html("label", {}, oneWay, ` ${TEXT.oneWay}`),
    button(TEXT.cut, "", link("cut")), button(TEXT.heal, "", link("heal")), button(TEXT.healAll, "", healAll)));

  const servers = Object.keys(picture.room.processes).filter((name) => name.endsWith("/daemon"))
    .map((name) => name.split("/")[0]).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  if (servers.length) {
    const server = select("server", TEXT.onServer, servers.map((name) => [name.split("-")[1], name]));
    const percent = number("percent", PERCENT_DEFAULT, 0, 100);
    const load = (value) => () => order({ order: "load", server: Number(server.value), percent: value() });
    get("orders").append(form(TEXT.load, server, percent, TEXT.ofCores,
      button(TEXT.put, "", load(() => Number(percent.value))), button(TEXT.stop, "", load(() => 0))));
  }

  const rate = number("rate", RATE_DEFAULT, 1, 1000);
  const n = number("n", N_DEFAULT, 1, 1000000000000);
  const requests = (perSecond) => () => order({ order: "requests", per_second: perSecond(), n: Number(n.value) });
  get("orders").append(form(TEXT.requests, rate, TEXT.perSecond, n,
    button(TEXT.send, "", requests(() => Number(rate.value))), button(TEXT.stop, "", requests(() => 0))));

  const receiver = select("receiver", TEXT.to, nodes);
  const lose = (what) => () => order({ ...what, node: Number(receiver.value) });
  get("orders").append(form(TEXT.messages, TEXT.to, receiver,
    button(TEXT.dropHeartbeats, "", lose({ order: "drop", what: "heartbeats" })),
    button(TEXT.dropVotes, "", lose({ order: "drop", what: "votes" })),
    button(TEXT.failVote, "", lose({ order: "fail", what: "vote" })),
    button(TEXT.letThrough, "", lose({ order: "heal", other: null, one_way: false }))));
}

export function drawControl(picture) {
  if (!picture.room) return;
  get("control-section").hidden = false;
  if (!drawn) {
    makeForms(picture);
    drawn = true;
    if (!sessionStorage.getItem(TOKEN)) set(get("control-said"), TEXT.noToken);
  }
  const processes = Object.entries(picture.room.processes);
  processes.sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
  sync(get("processes"), processes, ([name]) => name, ([name]) =>
    html("li", {}, html("strong", {}, name), html("span"),
      ...ORDERS.map((what) => button(TEXT.orders[what], TEXT.orderSpoken(TEXT.orders[what], name), () => order({ order: what, name })))),
  (row, [, state]) => {
    set(row.children[1], TEXT.process[state]);
    row.children[1].className = `state ${state === "running" ? "good" : state === "paused" ? "warn" : "bad"}`;
    ORDERS.forEach((what, i) =>
      row.children[i + 2].setAttribute("aria-disabled", String(!POSSIBLE[state].includes(what))));
  });
}
