// The logs of the nodes, one below the other, with the commit line. page.js draws the live cluster with it, and play.js
// a recording.

import { TEXT } from "./texts.js";
import { attributes, colourOf, get, html, set, svg, sync } from "./drawing.js";

// How wide a cell is, in a strip that is 10 high, where the terms are written into the cells.
const CELL_WIDTH = 14;

// With `still`, the cells carry the numbers of their terms.
export function drawLogs(picture) {
  const views = picture.nodes.map(({ view }) => view).filter((view) => view?.consensus);
  const last = Math.max(1, ...views.map((view) => view.status.last_index));
  const shown = Math.max(8, ...views.map((view) => view.consensus.log_terms.reduce((sum, [, count]) => sum + count, 0)));
  const width = picture.still ? CELL_WIDTH : 1;
  const from = Math.max(1, last - shown + 1);
  const lead = picture.leader?.consensus ? picture.leader : null;
  sync(get("logs").tBodies[0], picture.nodes, (node) => node.id, () => {
    const strip = svg("svg", { role: "img" });
    return html("tr", {}, html("th", { scope: "row" }), html("td", {}, strip, html("span", { class: "legend" })));
  }, (row, { id, view, follower }) => {
    set(row.children[0], TEXT.node(id));
    const [strip, words] = row.children[1].children;
    attributes(strip, { viewBox: `0 0 ${shown * width} 10`, preserveAspectRatio: picture.still ? "xMinYMid meet" : "none" });
    let [runs, upTo, commit, compacted] = [[], 0, 0, 0];
    if (view?.consensus) {
      let at = view.consensus.log_from;
      for (const [term, count] of view.consensus.log_terms) for (let i = 0; i < count; i++) runs.push([at++, term]);
      [upTo, commit, compacted] = [view.status.last_index, view.status.commit_index, view.status.snapshot_index];
      set(words, TEXT.indexes(upTo, commit) + (picture.still && compacted ? TEXT.inSnapshot(compacted) : ""));
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
    // What the log no longer holds is in the snapshot.
    const first = runs[0]?.[0] ?? upTo + 1;
    for (let index = from; index < Math.min(first, compacted + 1); index++) parts.push({ index });
    if (commit >= from) parts.push({ commit });
    sync(strip, parts, (part) => part.commit ? "commit" : `${width}-${part.index}`, (part) => {
      if (part.commit) return svg("line", { class: "commit", y1: 0, y2: 10 });
      const cell = svg("g");
      cell.append(svg("rect", { class: "cell", y: 1, height: 8, width }));
      if (picture.still) cell.append(svg("text", { class: "cell-term", x: width / 2, y: 7.6 }));
      return cell;
    }, (element, part) => {
      const x = ((part.commit ?? part.index - 1) - from + 1) * width;
      if (part.commit) return attributes(element, { x1: x, x2: x });
      attributes(element, { transform: `translate(${x},0)` });
      const [cell, number] = element.children;
      attributes(cell, { class: part.term ? "cell" : "cell compacted", fill: part.term ? colourOf(part.term) : "none" });
      if (number) set(number, part.term ? String(part.term) : "");
    });
  });
}
