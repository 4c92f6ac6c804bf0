// What stands in the status, in words.

export const dash = "–";

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return dash;
  let rest = Math.round(Math.abs(seconds));
  const parts = [];
  for (const [size, unit] of UNITS) {
    if (rest >= size && parts.length < 2) {
      parts.push(`${Math.floor(rest / size)} ${unit}`);
      rest %= size;
    } else if (parts.length) break;
  }
  return parts.join(" ") || "0 s";
}

export function scaled(value, unit, digits = 1) {
  if (value === null || value === undefined) return dash;
  for (const prefix of ["", "k", "M", "G", "T"]) {
    if (value < 1000 || prefix === "T") return `${value.toFixed(prefix || value % 1 ? digits : 0)} ${prefix}${unit}`;
    value /= 1000;
  }
  return dash;
}

export const percent = (value) => (value === null || value === undefined ? dash : `${(value * 100).toFixed(1)} %`);

export const count = (value) => (value === null || value === undefined ? dash : value.toLocaleString("en"));

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString("en-GB");

export function moment(unix, now) {
  const at = new Date(unix * 1000);
  const sameDay = at.toDateString() === new Date(now * 1000).toDateString();
  return sameDay ? clock(unix) : `${at.toLocaleDateString("en-GB")} ${clock(unix)}`;
}

export const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

// How a tunnel looks: what it is called, by class. Colour only repeats what words and lines say.
export function kindOf(peer, view) {
  if (view.stale || !view.now.known) return "unknown";
  if (!peer.protected) return peer.protection === "starting" ? "starting" : "bad";
  if (peer.protection === "qkd+pqc") return "good";
  return peer.policy === "off" ? "pqc" : "warn";
}

export const VERDICTS = {
  good: "Protected", pqc: "Protected", warn: "Protected, without QKD", bad: "Not protected as policy asks",
  starting: "Starting", unknown: "Not known", plain: "WireGuard only",
};

export const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);

export function protectionOf(peer, view) {
  if (view.stale) return "not known: the daemon does not answer";
  if (!view.now.known) return "not known: somebody else changed the interface";
  return peer.words;
}

export function sourceKind(source, view) {
  if (view.stale) return "unknown";
  if (source.state === "in quarantine" || source.healthy === false) return "bad";
  if (source.healthy === null) return "starting";
  return nearLimit(source) ? "warn" : "good";
}

export const nearLimit = (source) => source.qber !== null && source.qber_limit !== null && source.qber > source.qber_limit * 0.9;

export const SOURCE_WORDS = {
  good: "Delivers", warn: "Delivers, error rate near its limit", bad: "Fails", starting: "Not asked yet", unknown: "Not known",
};

export function sourceWords(source, view) {
  if (!view.stale && source.state === "in quarantine") return "In quarantine, none of its keys is used";
  if (!view.stale && source.state === "partly in quarantine") return "In quarantine towards some peers";
  return SOURCE_WORDS[sourceKind(source, view)];
}
