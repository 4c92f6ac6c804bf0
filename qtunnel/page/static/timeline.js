// The last hour of a tunnel as a strip, and figures of a key source as a line; all they show stands beside them in words.

import { s } from "./tree.js";

export const WIDTH = 1000;
const HEIGHT = 40;

// How high a band is: protection can be told without colour.
const BANDS = { "qkd+pqc": ["good", 30], "pqc-only": ["pqc", 18], expired: ["bad", 7], blocked: ["bad", 7], starting: ["starting", 3] };

export function strip(peer, past, end, present, label) {
  const begin = present - past.span;
  const x = (at) => Math.max(0, Math.min(WIDTH, ((at - begin) / past.span) * WIDTH));
  const its = past.peers[peer.name] ?? { rekeys: [], levels: [] };
  const bands = its.levels.map(([at, level], index) => {
    const until = its.levels[index + 1]?.[0] ?? end;
    let [kind, height] = BANDS[level] ?? ["starting", 3];
    if (level === "pqc-only" && peer.policy !== "off") kind = "warn";
    return s("rect", { class: `band ${kind}`, x: x(at), y: HEIGHT - height, width: Math.max(0, x(until) - x(at)), height });
  });
  const marks = its.rekeys.map(([at, done]) => done
    ? s("line", { class: "rekey", x1: x(at), x2: x(at), y1: 4, y2: HEIGHT })
    : s("path", { class: "failed", d: `M${x(at)} 0V${HEIGHT}` }));
  const silent = end < present - 1 ? s("rect", { class: "silent", x: x(end), y: 0, width: WIDTH - x(end), height: HEIGHT }) : null;
  return s("svg", { class: "strip", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    [1, 2, 3].map((part) => s("line", { class: "grid", x1: (WIDTH / 4) * part, x2: (WIDTH / 4) * part, y1: 0, y2: HEIGHT })),
    bands, marks, silent);
}

export function line(points, begin, span, { limit = null, label, kind }) {
  const height = 60;
  const values = points.map(([, value]) => value).filter((value) => value !== null);
  const top = Math.max(limit === null ? 0 : limit * 1.25, ...values.map((value) => value * 1.15), 1e-9);
  const x = (at) => ((at - begin) / span) * WIDTH;
  const y = (value) => height - (value / top) * height;
  const runs = [];
  let open = null;
  for (const [at, value] of points) {
    if (value === null) open = null;
    else if (open) open.push([at, value]);
    else runs.push((open = [[at, value]]));
  }
  const d = runs.map((run) => run.map(([at, value], i) => `${i ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("") + (run.length === 1 ? "h2" : ""));
  const areas = runs.filter((run) => run.length > 1).map((run) => `M${x(run[0][0]).toFixed(1)} ${height}` + run.map(([at, value]) => `L${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("") + `L${x(run.at(-1)[0]).toFixed(1)} ${height}Z`);
  return s("svg", { class: `line ${kind}`, viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    s("path", { class: "area", d: areas.join("") || "M0 0" }),
    limit === null ? null : s("line", { class: "limit", x1: 0, x2: WIDTH, y1: y(limit), y2: y(limit) }),
    s("path", { class: "graph", d: d.join("") || "M0 0" }));
}

export const bar = (part, kind) =>
  s("svg", { class: `bar ${kind}`, viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "trough", width: 100, height: 6, rx: 1 }),
    s("rect", { class: "level", width: Math.max(0, Math.min(1, part)) * 100, height: 6, rx: 1 }));
