// Follows the daemon, and never takes an old state for the present: what was not heard within LATE is not known.

import { happened } from "./happened.js";
import { badge, picture } from "./picture.js";
import { sources } from "./sources.js";
import { h, patch } from "./tree.js";
import { tunnels } from "./tunnels.js";
import { clock, count, duration, kindOf, moment, plural, protectionOf, VERDICTS } from "./words.js";

const LATE = 5000; // ms: four frames missing
const MOST_LATE = 15000; // ms, for a large hub whose frames come more seldom
const RETRY = [500, 1000, 2000, 5000]; // ms

const place = (name) => document.getElementById(name);
let now = null, past = null; // the newest that was told
let heard = null; // when, by both clocks of this machine: one stands still while it sleeps, the other may be set
let gap = 1000; // ms between frames, lately
let trouble = "Waiting for the daemon";
let lost = true;
let skews = null; // least difference between each clock here and there, over one connection
let attempts = 0;
let told = null;

const clocks = () => [performance.now(), Date.now()];
const sinceHeard = () => (heard === null ? Infinity : Math.max(...clocks().map((value, index) => value - heard[index])));
const allowed = () => Math.min(MOST_LATE, Math.max(LATE, gap * 3));

// -- the stream of events (WHATWG HTML, 9.2), by fetch, which tells why there is none

async function follow() {
  for (;;) {
    const ending = new AbortController();
    const watch = setInterval(() => { if (sinceHeard() > allowed() && performance.now() - began > allowed()) ending.abort(); }, 1000);
    const began = performance.now();
    skews = null;
    try {
      await read(ending.signal);
      trouble = "The daemon ended this connection and has not answered";
    } catch (error) {
      trouble = error instanceof Refusal ? error.message : "The daemon has not answered";
    }
    clearInterval(watch);
    ending.abort();
    lost = true;
    show();
    await new Promise((done) => setTimeout(done, RETRY[Math.min(attempts++, RETRY.length - 1)]));
  }
}

class Refusal extends Error {}

async function read(signal) {
  const answer = await fetch("live", { signal, headers: { Accept: "text/event-stream" }, cache: "no-store" });
  if (!answer.ok) throw new Refusal(`The daemon gives no state (${(await answer.text()).trim().slice(0, 200) || answer.status})`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const frames = text.split("\n\n");
    text = frames.pop();
    const found = frames.map(parse);
    for (const [name, data] of found) if (name === "past") past = data;
    const newest = found.filter(([name]) => name === "now").at(-1);
    if (newest) take(newest[1]);
  }
}

function parse(frame) {
  const fields = Object.fromEntries(frame.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
  return [fields.event, JSON.parse(fields.data)];
}

function take(data) {
  const at = clocks();
  const apart = [at[0] - data.clock * 1000, at[1] - data.now * 1000];
  skews = skews === null ? apart : skews.map((least, index) => Math.min(least, apart[index]));
  if (apart.some((value, index) => value - skews[index] > LATE)) throw new Error("what comes is old"); // a new connection has none waiting
  if (heard !== null && !lost) gap = 0.7 * gap + 0.3 * Math.max(0, at[0] - heard[0]);
  [now, heard, lost, attempts] = [data, at, false, 0];
  show();
}

// -- what is shown

function view() {
  const stale = lost || sinceHeard() > allowed() ? { present: now === null ? 0 : now.now + Math.max(0, sinceHeard()) / 1000 } : null;
  return { now, past, stale };
}

function show() {
  const its = view();
  document.documentElement.className = its.stale ? "stale" : "live";
  patch(place("alarm"), alarms(its));
  patch(place("link"), link(its));
  if (now === null) return;
  document.title = `${its.stale ? "? " : now.protected ? "" : "! "}${now.node.name} – qtunnel`;
  patch(place("name"), now.node.name);
  patch(place("verdict"), verdict(its));
  const room = place("picture");
  const style = getComputedStyle(room);
  const width = Math.floor(room.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
  if (width > 0) patch(room, picture(its, width));
  patch(place("cards"), tunnels(its));
  patch(place("sources"), sources(its));
  patch(place("events"), happened(its));
  patch(place("foot"), foot(its));
  say(its);
}

function link(its) {
  if (its.now === null) return lost && attempts ? "No answer yet" : "Waiting for the daemon";
  if (!its.stale) return [h("span", { class: "pulse", "aria-hidden": "true" }), `Live, as of ${clock(now.now)}`];
  return [h("span", { class: "pulse", "aria-hidden": "true" }), `No answer for ${duration(sinceHeard() / 1000)}`];
}

function alarms(its) {
  if (its.now === null) return attempts ? h("p", { class: "alarm" }, `${trouble}. Nothing is known; trying again.`) : null;
  if (its.stale) {
    const why = lost ? trouble : "The daemon has not answered";
    return h("p", { class: "alarm" }, h("strong", {}, `${why} since ${clock(now.now)}. What holds now is not known.`), " Whatever stands here is of before; trying again.");
  }
  const node = now.node;
  return [
    now.known ? null : h("p", { class: "alarm" }, "Somebody else changed the interface: what holds now is not known. ", h("code", {}, "qtunnel status"), " and the log say more."),
    node.state === "engine-down" ? h("p", { class: "alarm" }, "The engine does not run or does not answer: no traffic is known to pass.") : null,
    node.state === "stopping" ? h("p", { class: "alarm" }, "The daemon is stopping.") : null,
    node.audit_error ? h("p", { class: "alarm" }, `Nothing is recorded: ${node.audit_error}`) : null,
    node.config_error ? h("p", { class: "alarm note" }, `A newer configuration was refused, the one before is in use: ${node.config_error}`) : null,
  ];
}

function overall(its) {
  if (its.stale) return ["unknown", "Not known", "The daemon does not answer, so nobody here knows what protects the traffic."];
  if (!now.known) return ["unknown", "Not known", "Somebody else changed the interface."];
  const { total, unprotected } = now;
  if (!total) return ["starting", "Nothing to protect yet", now.plain_peers.length ? "All peers are plain WireGuard." : "No peer is there yet."];
  if (unprotected) {
    const starting = now.peers.filter((peer) => !peer.protected && peer.protection === "starting").length;
    if (starting === unprotected) return ["starting", `${plural(unprotected, "tunnel")} of ${count(total)} starting`, "No traffic passes there yet."];
    return ["bad", `${count(unprotected)} of ${plural(total, "tunnel")} not protected`, "as policy asks. What to see to stands below."];
  }
  const without = now.peers.filter((peer) => kindOf(peer, its) === "warn").length;
  const all = total === 1 ? "The tunnel is protected" : `All ${count(total)} tunnels are protected`;
  if (without) return ["warn", all, `as policy asks; ${without === 1 ? "one" : count(without)} of them without the QKD that is preferred.`];
  return ["good", all, "as policy asks."];
}

function verdict(its) {
  const [kind, words, more] = overall(its);
  return h("div", { class: `verdict ${kind}` }, badge(kind, words), h("p", {}, more));
}

function foot(its) {
  const node = now.node;
  return h("p", { class: "quiet" }, `qtunnel ${node.version}, engine ${node.engine}, interface ${node.interface}. `,
    its.stale ? `Last heard of at ${moment(now.now, its.stale.present)}.` : `Running for ${duration(node.uptime)}. Times are those of this browser's time zone.`);
}

// Only what changes is said to who listens, not every second.
function say(its) {
  const present = new Map([["", overall(its).slice(1).join(", ")], ...now.peers.map((peer) => [peer.name, `${peer.name}: ${VERDICTS[kindOf(peer, its)]}, ${protectionOf(peer, its)}`])]);
  if (told !== null && !its.stale) {
    const changed = [...present].filter(([name, words]) => name && told.get(name) !== words).map(([, words]) => words);
    if (changed.length) patch(place("said"), changed.length > 3 ? present.get("") : changed.join(". "));
  }
  if (!its.stale) told = present;
}

addEventListener("resize", show);
document.addEventListener("visibilitychange", show);
setInterval(() => { if (view().stale) show(); }, 500);
show();
follow();
