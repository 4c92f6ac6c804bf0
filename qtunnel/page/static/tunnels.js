// One card for each tunnel: what protects it now, of what its keys are, and its last hour.

import { badge } from "./picture.js";
import { bar, strip } from "./timeline.js";
import { h } from "./tree.js";
import { clock, count, duration, kindOf, plural, protectionOf, scaled, sentence, VERDICTS } from "./words.js";

export function tunnels(view) {
  const { peers, plain_peers: plain, others, plain_others: plainOthers } = view.now;
  const more = view.stale ? null : others.number
    ? h("p", { class: "card quiet", key: "more" }, `${plural(others.number, "more tunnel")}: ${others.unprotected ? `${count(others.unprotected)} of them not protected as policy asks` : "all protected as policy asks"}. qtunnel status lists them.`) : null;
  return [
    h("ul", { class: "cards" }, peers.map((peer) => card(peer, view)), plain.map((peer) => plainCard(peer, view))),
    more,
    plainOthers ? h("p", { class: "card quiet", key: "plain" }, `${plural(plainOthers, "more peer")} with WireGuard only.`) : null,
    legend,
  ];
}

function card(peer, view) {
  const kind = kindOf(peer, view);
  return h("li", { class: `card ${kind}`, key: peer.name },
    h("div", { class: "head" }, h("h3", {}, peer.name), badge(kind, VERDICTS[kind])),
    h("p", { class: "protection" }, sentence(protectionOf(peer, view))),
    view.stale ? h("p", { class: "asof" }, `When the daemon last answered, at ${clock(view.now.now)}, it was: ${peer.words}.`) : now(peer, view),
    hour(peer, view));
}

function now(peer, view) {
  const facts = [];
  const fact = (name, ...value) => facts.push(h("div", {}, h("dt", {}, name), h("dd", {}, value)));
  const known = view.now.known;
  if (known && peer.epoch_in_force !== null) {
    const limit = peer.max_age_s === null ? "" : ` of at most ${duration(peer.max_age_s)}`;
    fact("Key in force", `epoch ${count(peer.epoch_in_force)}, ${duration(peer.age_s)} old${limit}`,
      peer.age_s !== null && peer.max_age_s ? bar(peer.age_s / peer.max_age_s, peer.age_s > peer.max_age_s * 0.8 ? "warn" : "good") : null);
  }
  if (known && peer.sources.length) fact("Made of", peer.sources.join(", ") + (peer.chained ? ", and the epoch before" : ""));
  fact("Next rekey", peer.next_rekey + (peer.interval ? `; every ${peer.interval}` : ""));
  fact("QKD policy", peer.policy + (peer.peer_policy ? `; the peer's: ${peer.peer_policy}` : ""));
  for (const its of peer.reservoir) {
    fact("Agreed ahead", `${count(its.keys)} of ${count(its.depth)} keys of ${its.source}`, bar(its.depth ? its.keys / its.depth : 0, its.keys < its.depth / 4 ? "warn" : "good"));
  }
  fact("Traffic", `${scaled(peer.rx_bytes, "B")} received, ${scaled(peer.tx_bytes, "B")} sent`);
  fact("Speaks from", peer.endpoint ?? "not known yet");
  const recent = peer.last_error !== null && (!peer.protected || peer.last_error_age_s < 600);
  return [
    recent ? h("p", { class: "error" }, `${peer.last_error} (${duration(peer.last_error_age_s)} ago)`) : null,
    h("dl", { class: "facts" }, facts),
  ];
}

function hour(peer, view) {
  const past = view.past;
  if (!past) return null;
  const end = view.now.now, present = view.stale ? view.stale.present : end;
  const rekeys = past.peers[peer.name]?.rekeys ?? [];
  const done = rekeys.filter(([, its]) => its).length, failed = rekeys.length - done;
  const words = `${plural(done, "rekey")} in the last hour${failed ? `, ${count(failed)} failed` : ", none failed"}`;
  const newest = rekeys.filter(([, its]) => its).at(-1);
  const label = `Timeline of the last hour: ${words}${newest ? `; the newest at ${clock(newest[0])}` : ""}`;
  return h("div", { class: "hour" },
    h("p", { class: "quiet" }, words),
    strip(peer, past, end, present, label),
    h("p", { class: "axis", "aria-hidden": "true" }, h("span", {}, "1 h ago"), h("span", {}, "30 min"), h("span", {}, "now")));
}

function plainCard(peer, view) {
  const kind = view.stale ? "unknown" : "plain";
  return h("li", { class: `card ${kind}`, key: `plain ${peer.name}` },
    h("div", { class: "head" }, h("h3", {}, peer.name), badge(kind, VERDICTS[kind])),
    h("p", { class: "protection" }, view.stale ? sentence(protectionOf(peer, view)) : `Without qtunnel's protection: not post-quantum, no QKD; ${peer.preshared_key ? "a preshared key that stays what it is" : "no preshared key"}`),
    view.stale ? null : h("dl", { class: "facts" },
      h("div", {}, h("dt", {}, "Traffic"), h("dd", {}, `${scaled(peer.rx_bytes, "B")} received, ${scaled(peer.tx_bytes, "B")} sent`)),
      h("div", {}, h("dt", {}, "WireGuard handshake"), h("dd", {}, peer.last_handshake_age_s === null ? "never" : `${duration(peer.last_handshake_age_s)} ago`))));
}

const legend = h("p", { class: "legend", key: "legend" },
  "In the timelines a high band is QKD and post-quantum, one of half the height post-quantum only, a thin one no traffic. ",
  "A thin upright line is a rekey, a thick red one a rekey that failed; hatched is when the daemon did not answer.");
