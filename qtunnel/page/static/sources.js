// Key sources: what they have in store, how fast they make keys, and the error rate against its limit.

import { badge } from "./picture.js";
import { bar, line } from "./timeline.js";
import { h } from "./tree.js";
import { clock, count, duration, percent, plural, scaled, sourceKind, sourceWords } from "./words.js";

const QBER = 1, RATE = 2;
const OLD = 60; // seconds: two of the usual 30 s between looks

export function sources(view) {
  if (!view.now.sources.length) return [h("p", { class: "quiet card" }, "No key source is configured: the tunnels are post-quantum only.")];
  return [h("ul", { class: "grid" }, view.now.sources.map((source) => card(source, view)))];
}

function card(source, view) {
  const kind = sourceKind(source, view);
  return h("li", { class: `card ${kind}`, key: source.name },
    h("div", { class: "head" }, h("h3", {}, source.name), badge(kind, sourceWords(source, view))),
    h("p", { class: "quiet" }, source.description),
    view.stale ? h("p", { class: "asof" }, `When it was last heard of, at ${clock(view.now.now)}, it was: ${sourceWords(source, { now: view.now }).toLowerCase()}.`)
      : [source.alarm ? h("p", { class: "error" }, source.alarm) : null,
         source.healthy === false && source.last_error && !source.alarm ? h("p", { class: "error" }, source.last_error) : null,
         ...source.towards.map((one) => h("p", { class: one.alarm ? "error" : "quiet" }, `Towards ${one.peer}: ${one.state}${one.silent_s !== null && one.state === "status not known" ? ` for ${duration(one.silent_s)}` : ""}${one.alarm || one.problem ? `, ${one.alarm ?? one.problem}` : ""}`)),
         source.towards_more ? h("p", { class: "quiet" }, `and ${plural(source.towards_more, "peer")} more`) : null,
         source.healthy === true ? figures(source, view) : before(source),
         h("p", { class: "quiet" }, `${plural(source.keys_taken, "key")} taken, ${count(source.keys_lost)} lost since the start`)]);
}

function before(source) {
  if (source.healthy === null) return null;
  return h("p", { class: "quiet" }, "What it has in store, and how fast it makes keys, is not known while it fails.");
}

function figures(source, view) {
  const points = view.past?.sources[source.name] ?? [];
  const span = view.past?.span ?? 3600, begin = view.now.now - span;
  const column = (index) => points.map((point) => [point[0], point[index]]);
  const parts = [];
  if (source.stored_keys !== null) {
    const of = source.max_keys === null ? "" : ` of ${count(source.max_keys)}`;
    parts.push(figure("In store", `${count(source.stored_keys)}${of} keys`, lasts(source),
      source.max_keys ? bar(source.stored_keys / source.max_keys, source.stored_keys / source.max_keys < 0.1 ? "warn" : "good") : null));
  }
  if (source.key_rate !== null) {
    const text = scaled(source.key_rate, "bit/s");
    parts.push(figure("Key rate", text, "last hour", line(column(RATE), begin, span, { label: `Key rate of the last hour; now ${text}`, kind: "pqc" })));
  }
  if (source.qber !== null) {
    const limit = source.qber_limit, kind = sourceKind(source, view) === "warn" ? "warn" : "good";
    const old = source.qber_age_s > OLD ? `, ${duration(source.qber_age_s)} ago` : "";
    const bound = (limit === null ? "no limit is set" : `at most ${percent(limit)}`) + old;
    parts.push(figure("Error rate (QBER)", percent(source.qber), bound,
      line(column(QBER), begin, span, { limit, label: `QBER of the last hour; now ${percent(source.qber)}, ${bound}`, kind })));
  }
  return parts.length ? h("dl", { class: "figures" }, parts) : h("p", { class: "quiet" }, "It delivers, and tells nothing of its store or its link.");
}

function lasts(source) {
  if (source.lasts) return "no less is made than used";
  return source.days_left === null ? "" : `at least ${duration(source.days_left * 86400)} left at today's use`;
}

const figure = (name, value, more, drawing) =>
  h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, h("span", { class: "value" }, value), " ", h("span", { class: "quiet" }, more), drawing));
