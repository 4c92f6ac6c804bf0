// The gateway, what gives it keys and whom it has tunnels with, drawn for the width there is. Lines say by their form what
// colour repeats: double is QKD and post-quantum, single post-quantum only, broken is not protected, dotted not known.

import { h, s } from "./tree.js";
import { duration, kindOf, plural, protectionOf, short, sourceKind, sourceWords, VERDICTS } from "./words.js";

const ROWS = 10;
const SHAPES = {
  round: "M0 -10A10 10 0 0 1 0 10A10 10 0 0 1 0 -10Z",
  triangle: "M0 -10.5L11 9H-11Z",
  octagon: "M-4.2 -10H4.2L10 -4.2V4.2L4.2 10H-4.2L-10 4.2V-4.2Z",
};
const CHECK = "M-4.6 .4L-1.4 3.6L4.8 -3.4";
const ICONS = {
  good: [SHAPES.round, CHECK], pqc: [SHAPES.round, CHECK], warn: [SHAPES.triangle, "M0 -4.4V2M0 5.4V5.5"],
  bad: [SHAPES.octagon, "M-3.7 -3.7L3.7 3.7M3.7 -3.7L-3.7 3.7"], starting: [SHAPES.round, "M-4.4 0H-4.3M0 0H.1M4.4 0H4.5"],
  unknown: [SHAPES.round, "M-3 -2.6C-3 -6.2 3.2 -6 3 -2.4C2.9 -.4 0 -.2 0 2.2M0 5.6V5.7"], plain: [SHAPES.round, "M-4 0H4"],
};

const icon = (kind, attributes) => {
  const [shape, mark] = ICONS[kind];
  return s("g", { class: `icon ${kind}`, ...attributes }, s("path", { class: "shape", d: shape }), s("path", { class: "mark", d: mark }));
};

export const badge = (kind, words) =>
  h("span", { class: `badge ${kind}` }, s("svg", { viewBox: "-12 -12 24 24", "aria-hidden": "true" }, icon(kind)), h("span", {}, words));

function members(view) {
  const { peers, plain_peers: plain, sources, others } = view.now;
  const all = [
    ...peers.map((peer) => ({ name: peer.name, kind: kindOf(peer, view), words: kindOf(peer, view) === "unknown" ? "not known" : protectionOf(peer, view), more: epoch(peer, view) })),
    ...plain.map((peer) => ({ name: peer.name, kind: view.stale ? "unknown" : "plain", words: view.stale ? "not known" : VERDICTS.plain, more: "" })),
  ];
  const ends = all.slice(0, ROWS);
  const left = all.length - ends.length + others.number;
  if (left) ends.push({ name: `${left} more`, kind: "unknown", words: "see below", more: "", rest: true });
  const givers = sources.slice(0, ROWS).map((source) => ({ name: source.name, kind: sourceKind(source, view), words: sourceWords(source, view) }));
  return { ends, givers };
}

function epoch(peer, view) {
  if (view.stale || !view.now.known || peer.epoch_in_force === null || !peer.protected) return "";
  return `epoch ${peer.epoch_in_force}, ${duration(peer.age_s)} old`;
}

// What there is room for: all of it, or what stands before the comma.
const fit = (words, length) => short(words.length > length ? words.split(/[,:]/)[0] : words, length);

export function picture(view, width) {
  const { ends, givers } = members(view);
  const parts = width >= 700 ? across(view, ends, givers, width) : down(view, ends, givers, width);
  const label = `${view.now.node.name}, ${plural(ends.length, "tunnel")}: ` + ends.map((its) => `${its.name} ${its.words}`).join("; ")
    + (givers.length ? `. Key sources: ${givers.map((its) => `${its.name} ${its.words}`).join("; ")}` : "") + ".";
  return [s("svg", { class: "picture", viewBox: `0 0 ${width} ${parts.height}`, width, height: parts.height, role: "img", "aria-label": label }, parts.drawn),
    h("ul", { class: "keys", "aria-hidden": "true" }, [["good", "QKD and post-quantum"], ["pqc", "post-quantum only"], ["warn", "without the QKD preferred"], ["bad", "not protected"], ["unknown", "not known"]]
      .map(([kind, words]) => h("li", {}, s("svg", { viewBox: "0 0 44 12" }, pipe(kind, "M2 6H42")), words)))];
}

// Two lines for what has two kinds of keys.
const pipe = (kind, d, key) => [
  s("path", { class: `pipe ${kind}`, d, key: key && `${key} pipe` }),
  kind === "good" ? s("path", { class: "core", d, key: key && `${key} core` }) : null,
];

const text = (x, y, kind, words, more) => s("text", { x, y, class: kind, ...more }, words);

const box = (x, y, width, height, kind) => s("rect", { class: `box ${kind}`, x: x + 1, y: y + 1, width: width - 2, height: height - 2, rx: 10 });

const stateOf = (view) => (view.stale ? "not known" : view.now.node.state);

function across(view, ends, givers, width) {
  const row = ends.length > 6 ? 66 : 88, tall = 50, feed = 64, wide = 190, hub = 168;
  const height = Math.max(ends.length * row, givers.length * feed, 110);
  const left = givers.length ? 150 : 0, at = givers.length ? 232 : 0, middle = height / 2;
  const drawn = [];
  givers.forEach((its, index) => {
    const y = middle + (index - (givers.length - 1) / 2) * feed;
    drawn.push(s("path", { class: `feed ${its.kind}`, d: `M${left} ${y}C${left + 45} ${y} ${at - 45} ${middle} ${at} ${middle}` }),
      box(0, y - 24, left, 48, its.kind), icon(its.kind, { transform: `translate(20 ${y}) scale(.9)` }),
      text(38, y - 3, "name small", short(its.name, 14)), text(38, y + 14, "more", view.stale ? "not known" : fit(its.words, 17)));
  });
  ends.forEach((its, index) => {
    const y = middle + (index - (ends.length - 1) / 2) * row, from = at + hub, bend = from + 90, to = width - wide;
    const d = `M${from} ${middle}C${from + 50} ${middle} ${bend - 50} ${y} ${bend} ${y}H${to}`;
    if (!its.rest) drawn.push(...pipe(its.kind, d));
    drawn.push(box(to, y - tall / 2, wide, tall, its.rest ? "" : its.kind), text(to + 16, y + 5, "name", short(its.name, 18)));
    if (its.rest) return;
    drawn.push(icon(its.kind, { transform: `translate(${bend + 16} ${y}) scale(1.25)` }),
      text(bend + 38, y - 11, `label ${its.kind}`, fit(its.words, Math.floor((to - bend - 46) / 8.4))), text(bend + 38, y + 23, "more", its.more));
  });
  drawn.push(box(at, middle - 42, hub, 84, "gateway"), text(at + hub / 2, middle - 6, "name", short(view.now.node.name, 15), { "text-anchor": "middle" }),
    text(at + hub / 2, middle + 16, "more", `this gateway: ${stateOf(view)}`, { "text-anchor": "middle" }));
  return { drawn, height };
}

function down(view, ends, givers, width) {
  const trunk = 22, inset = 58, feed = 56, row = 76, drawn = [];
  let y = 0;
  const top = givers.length * feed, hub = top + (givers.length ? 14 : 0), foot = hub + 64;
  for (const its of givers) {
    const middle = y + 24;
    drawn.push(s("path", { class: `feed ${its.kind}`, d: `M${inset} ${middle}H${trunk + 12}Q${trunk} ${middle} ${trunk} ${middle + 12}V${hub}` }),
      box(inset, y, width - inset, 48, its.kind), icon(its.kind, { transform: `translate(${inset + 22} ${middle}) scale(.9)` }),
      text(inset + 42, middle - 3, "name small", short(its.name, 24)), text(inset + 42, middle + 14, "more", fit(its.words, Math.floor((width - inset - 50) / 7))));
    y += feed;
  }
  // From the last one up, so that the nearer ones lie on top of the trunk.
  ends.map((its, index) => [its, foot + 18 + index * row]).reverse().forEach(([its, at]) => {
    const middle = at + 30;
    if (!its.rest) drawn.push(...pipe(its.kind, `M${trunk} ${foot}V${middle - 12}Q${trunk} ${middle} ${trunk + 12} ${middle}H${inset}`));
    drawn.push(box(inset, at, width - inset, 60, its.rest ? "" : its.kind), text(inset + 44, middle - 4, "name", short(its.name, 24)),
      text(inset + 44, middle + 16, `label ${its.rest ? "" : its.kind}`, fit(its.words, Math.floor((width - inset - 52) / 8.4))));
    if (!its.rest) drawn.push(icon(its.kind, { transform: `translate(${inset + 23} ${middle}) scale(1.1)` }));
  });
  drawn.push(box(0, hub, width, 64, "gateway"), text(18, hub + 28, "name", short(view.now.node.name, 26)), text(18, hub + 48, "more", `this gateway: ${stateOf(view)}`));
  return { drawn, height: foot + 18 + ends.length * row };
}
