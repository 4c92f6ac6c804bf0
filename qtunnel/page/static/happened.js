// The newest events, in words; the kind of each stands beside them, as the log has it.

import { h } from "./tree.js";
import { duration, moment, sentence } from "./words.js";

const LEVELS = {
  "qkd+pqc": "QKD and post-quantum", "pqc-only": "post-quantum only", blocked: "blocked", starting: "starting",
  expired: "expired",
};
const level = (value) => LEVELS[value] ?? value;
const why = (f) => f.detail || f.reason || "no reason given";

const PHRASES = {
  "daemon.starting": (f) => `the daemon starts, version ${f.version}`,
  "daemon.ready": (f) => `the daemon is ready, with interface ${f.interface}`,
  "daemon.stopping": () => "the daemon is asked to stop",
  "rekey.done": (f) => `new keys: epoch ${f.epoch}${took(f)}${f.sources ? `, with a key of ${f.sources}` : ", without a QKD key"}`,
  "rekey.failed": (f) => `no new keys: ${why(f)}`,
  "rekey.unanswered": (f) => f.detail || "the peer does not answer",
  "epoch.in-force": (f) => `traffic goes by epoch ${f.epoch}: ${f.sources}`,
  "protection.in-force": (f) => `protection of the traffic: ${level(f.after)}, before ${level(f.before)}`,
  "protection.changed": (f) => `protection of what is installed: ${level(f.after)}, before ${level(f.before)}`,
  "peer.blocked": (f) => `blocked, no traffic passes: ${f.detail || "its key is too old"}`,
  "source.up": (f) => `key source ${f.source} delivers`,
  "source.down": (f) => `key source ${f.source} fails: ${f.detail}`,
  "source.quarantined": (f) => `key source ${f.source} is in quarantine: ${f.detail}`,
  "source.unreadable": (f) => `no key of ${f.source} is used: ${f.detail}`,
  "source.unwatched": (f) => `key source ${f.source}: ${f.detail}`,
  "source.watched": (f) => `key source ${f.source}: ${f.detail}`,
  "key.distrusted": (f) => `${f.number} keys of ${f.source} wiped: ${f.detail}`,
  "source.cleared": (f) => `quarantine of key source ${f.source} has ended`,
  "source.keys-lost": (f) => `${f.number} of the keys of ${f.source} lost: ${f.detail}`,
  "reservoir.low": (f) => `few keys of ${f.source} are left agreed ahead`,
  "reservoir.filled": (f) => `enough keys of ${f.source} are agreed ahead`,
  "schedule.changed": (f) => `another interval between rekeys${f.after ? `, ${duration(f.after)}` : ""}: ${f.reason ?? why(f)}`,
  "endpoint.moved": (f) => `speaks from ${f.after} now`,
  "config.reloaded": () => "another configuration is in use",
  "config.refused": (f) => `a configuration was refused: ${f.detail}`,
};

function took(fields) {
  if (typeof fields.seconds !== "number") return "";
  return `, in ${fields.seconds < 1 ? `${Math.round(fields.seconds * 1000)} ms` : `${fields.seconds.toFixed(1)} s`}`;
}

function inWords(event) {
  const phrase = PHRASES[event.kind];
  if (phrase) return phrase(event.fields);
  if (event.fields.detail) return event.fields.detail;
  const rest = Object.entries(event.fields).filter(([, value]) => value !== null && value !== "");
  return rest.map(([name, value]) => `${name} ${value}`).join(", ") || event.kind.replace(/[.-]/g, " ");
}

const MARKS = { error: "!!", warning: "!", info: "·" };
const MARK_WORDS = { error: "Alarm: ", warning: "Warning: ", info: "" };
const FIRST = 12;

const row = (event, now) =>
  h("li", { class: `event ${event.level}`, key: `${event.time} ${event.kind} ${event.peer} ${event.fields.source ?? ""}` },
    h("time", { datetime: new Date(event.time * 1000).toISOString() }, moment(event.time, now)),
    h("span", { class: "mark", "aria-hidden": "true" }, MARKS[event.level] ?? "·"),
    h("span", { class: "what" },
      h("span", { class: "unseen" }, MARK_WORDS[event.level] ?? ""),
      event.peer ? h("strong", {}, event.peer, ": ") : null,
      event.peer ? inWords(event) : sentence(inWords(event)), " ", h("code", {}, event.kind)));

export function happened(view) {
  const events = view.past?.events ?? [];
  const now = view.stale ? view.stale.present : view.now.now;
  if (!events.length) return [h("p", { class: "quiet" }, "Nothing happened yet.")];
  const list = (some) => h("ol", { class: "events" }, some.map((event) => row(event, now)));
  const older = events.slice(FIRST);
  return [
    view.stale ? h("p", { class: "asof" }, `Until ${moment(view.now.now, now)}; what happened since is not known.`) : null,
    list(events.slice(0, FIRST)),
    older.length ? h("details", { key: "older" }, h("summary", {}, `${older.length} before these`), list(older)) : null,
  ];
}
