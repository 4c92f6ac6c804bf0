"""What ``qtunnel status --watch`` draws on a terminal of a given size. Colour only repeats what the words say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.text import Text

from qtunnel.cli.ages import Ages, line
from qtunnel.cli.sources import COLOURS, lasts_words, qber_words, rate_words
from qtunnel.control.messages import KeySourceStatus, PeerStatus, PlainPeerStatus, ReservoirStatus, Status
from qtunnel.control.words import PROTECTION_WORDS, due, duration

LABEL = 11
"""Columns for the names of lines, with the space after them."""
WORDS = 44
"""Columns for the words behind an age's line at most, e.g. "59 min 59 s of 59 min 59 s, next in 59 min 59 s"."""
LEAST_LINE, MOST_LINE = 12, 60
BAR = 20
SPANS = ((300.0, "5 min"), (600.0, "10 min"), (1800.0, "30 min"), (3600.0, "1 h"), (10800.0, "3 h"), (43200.0, "12 h"))
"""What an age's line may cover, in seconds and in words."""
SHOWN_REKEYS = 5.0
"""Intervals between rekeys that the line of the slowest peer shows: enough to tell a rhythm from its break."""
NEAR = 0.8
"""Of its limit, from which on a QBER is yellow."""


@dataclass
class Scene:
    """What is known now. report: of the newest look; away: why there is none newer, since when (``at``'s clock).
    ages: of each peer. at: of this picture, on the clock of ages; time: the same for people."""

    report: Status
    at: float
    time: str
    interval: float
    away: str | None = None
    away_since: float = 0.0
    ages: Mapping[str, Ages] = field(default_factory=dict)


def draw(scene: Scene, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
    """At most ``height`` lines of at most ``width`` columns."""
    report = scene.report
    span, span_words = _span(report)
    head = _head(scene, width)
    foot = [
        Text(),
        Text(
            f"every {scene.interval:g} s until Ctrl-C; lines are the age of the epoch in force, last {span_words}",
            "dim",
        ),
    ]
    sources = [row for its in report.key_sources for row in _source(its, scene, width, ascii_only)]
    if sources:
        sources = [Text(), Text("key sources", "bold"), *sources]
    blocks = [_peer(peer, scene, width, span, ascii_only) for peer in report.peers]
    blocks += [_plain(peer, scene) for peer in report.plain_peers]
    urgent = [_urgency(peer) for peer in report.peers] + [2] * len(report.plain_peers)
    room = height - len(head) - len(foot)
    if sum(map(len, blocks)) + len(sources) > room and len(sources) > room // 2:  # the tunnels first
        left = max(0, room // 2 - 1)
        sources = [*sources[:left], Text("  ... more in: qtunnel sources", "dim")]
    rows = _fitting(blocks, urgent, room - len(sources))
    if not blocks:
        rows = [Text("no peers are configured, so nothing is protected")]
    lines = [*head, *rows, *sources, *foot][:height]
    for its in lines:
        its.plain = "".join(c if c.isprintable() else "?" for c in its.plain)  # words of KMEs are among them
        its.no_wrap = True
        its.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return lines


def _fitting(blocks: list[list[Text]], urgent: list[int], room: int) -> list[Text]:
    """All of them in their order; where there is no room for that, those first that need a look."""
    if sum(map(len, blocks)) <= room:
        return [row for block in blocks for row in block]
    rows: list[Text] = []
    order = sorted(range(len(blocks)), key=urgent.__getitem__)
    for place, number in enumerate(order):
        if len(rows) + len(blocks[number]) > room - 1:
            left = [urgent[other] for other in order[place:]]
            bad = left.count(0)
            said = f"{bad} of them NOT protected" if bad else "none of them unprotected"
            rows.append(Text(f"... and {len(left)} more, {said}: qtunnel status PEER", "red" if bad else "dim"))
            break
        rows += blocks[number]
    return rows


def _urgency(peer: PeerStatus) -> int:
    """0: not protected; 1: less than it could be; 2: well."""
    if not peer.protected:
        return 0
    return 1 if peer.protection == "pqc-only" and peer.policy != "off" else 2


def _span(report: Status) -> tuple[float, str]:
    longest = max((peer.interval_s or 0.0 for peer in report.peers), default=0.0) * SHOWN_REKEYS
    return next((its for its in SPANS if its[0] >= longest), SPANS[-1])


def _head(scene: Scene, width: int) -> list[Text]:
    node = scene.report.node
    if scene.away is not None:
        ago = duration(scene.at - scene.away_since)
        first = Text.assemble(
            (node.name, "bold"), (f": the daemon is away, for {ago}; what it protects is not known", "red")
        )
        return [_right(first, scene.time, width), Text(f"  {scene.away}"), Text()]
    state = "" if node.state == "up" else "red"
    engine = f"{node.engine} (pid {node.engine_pid})" if node.engine_pid else f"{node.engine} (not running)"
    first = Text.assemble(
        (node.name, "bold"),
        (f" is {node.state}", state),
        f": {node.interface}, engine {engine}, for {duration(node.uptime)}",
    )
    rows = [_right(first, scene.time, width)]
    if node.config_error is not None:
        rows.append(Text(f"a newer configuration was refused: {node.config_error.splitlines()[0]}", "red"))
    if node.audit_error is not None:
        rows.append(Text(f"nothing is recorded: {node.audit_error}", "red"))
    return [*rows, Text()]


def _right(left: Text, right: str, width: int) -> Text:
    left.truncate(max(1, width - len(right) - 1), overflow="ellipsis", pad=True)
    return left.append(f" {right}", "dim")


def _peer(peer: PeerStatus, scene: Scene, width: int, span: float, ascii_only: bool) -> list[Text]:
    name = _label(peer.name, "bold")
    words = PROTECTION_WORDS[peer.protection]
    if scene.away is not None:
        return [name.append(f"not known; {duration(scene.at - scene.away_since)} ago: {words}", "dim"),
                _age(peer, scene, width, span, ascii_only)]  # fmt: skip
    verdict = "protected" if peer.protected else "NOT protected"
    name.append(f"{verdict}: {words}", ("red", "yellow", "green")[_urgency(peer)])
    rows = [name.append(f" (qkd policy: {peer.policy})"), _age(peer, scene, width, span, ascii_only)]
    rows += [_reservoir(its, ascii_only) for its in peer.reservoir]
    if peer.last_error is not None:
        ago = f"{duration(peer.last_error_age_s)} ago: " if peer.last_error_age_s is not None else ""
        rows.append(_label("  error").append(f"{ago}{peer.last_error}", "" if peer.protected else "red"))
    return rows


def _age(peer: PeerStatus, scene: Scene, width: int, span: float, ascii_only: bool) -> Text:
    row = _label("  epoch" if peer.epoch_in_force is None else f"  epoch {peer.epoch_in_force}")
    cells = min(MOST_LINE, max(LEAST_LINE, width - LABEL - WORDS))
    ages = scene.ages[peer.name].cells(scene.at, span, cells) if peer.name in scene.ages else []
    known = [age for age in ages if isinstance(age, float)]
    top = max([*known, peer.interval_s or 0.0, 1.0])
    style = "red" if peer.max_age_s is not None and known and known[-1] > peer.max_age_s else "cyan"
    row.append(line(ages, top, ascii_only=ascii_only).ljust(cells), style).append("  ")
    if scene.away is not None:
        return row
    limit = f" of {duration(peer.max_age_s)}" if peer.max_age_s is not None else ""
    age = "none in force" if peer.age_s is None else f"{duration(peer.age_s)}{limit}"
    return row.append(f"{age}, {_next(peer)}")


def _next(peer: PeerStatus) -> str:
    if peer.role == "responder":
        return "next: the peer's turn"
    return "next under way" if peer.next_rekey_s is None and peer.role else f"next {due(peer.next_rekey_s)}"


def _reservoir(its: ReservoirStatus, ascii_only: bool) -> Text:
    row = _label("  keys").append_text(_bar(its.keys, its.depth, ascii_only))
    return row.append(f"  {its.keys} of {its.depth} keys of {its.source} agreed ahead")


def _plain(peer: PlainPeerStatus, scene: Scene) -> list[Text]:
    words = "not known" if scene.away is not None else "WireGuard only, without qtunnel's protection"
    return [_label(peer.name, "bold").append(words, "dim" if scene.away is not None else "yellow")]


def _source(its: KeySourceStatus, scene: Scene, width: int, ascii_only: bool) -> list[Text]:
    row = _label(f"  {its.name}")
    if scene.away is not None:
        return [row.append("not known", "dim")]
    row.append(f"{its.state:<13}", COLOURS[its.state])
    for part in _figures(its, ascii_only):
        if row.cell_len + 2 + part.cell_len <= width:  # what does not fit, `qtunnel sources` has
            row.append("  ").append_text(part)
    why = its.alarm or its.last_error or its.detail
    if its.healthy is False and why:
        return [row, _label("").append(why, "red")]
    return [row]


def _figures(its: KeySourceStatus, ascii_only: bool) -> Iterator[Text]:
    """What a source tells, the most urgent first."""
    if its.qber is not None:
        limit = its.qber_limit
        style = "" if limit is None or its.qber < NEAR * limit else "yellow" if its.qber <= limit else "red"
        yield Text(f"QBER {qber_words(its)}", style)
    if its.stored_keys is not None:
        bar = _bar(its.stored_keys, its.max_keys, ascii_only, BAR // 2).append(" ") if its.max_keys else Text()
        yield bar.append(f"{its.stored_keys:,} keys")
    if its.keys_lost:
        yield Text(f"{its.keys_lost:,} lost", "yellow")
    if its.lasts or its.days_left is not None:
        yield Text(f"lasts {lasts_words(its)}")
    if its.key_rate is not None:
        yield Text(rate_words(its.key_rate))


def _bar(part: int, whole: int, ascii_only: bool, width: int = BAR) -> Text:
    """How full something is; whatever there is shows, and only what is full looks full."""
    filled = width if part >= whole else min(width - 1, max(int(part > 0), part * width // max(1, whole)))
    full, empty = ("#", "-") if ascii_only else ("█", "░")
    style = "red" if part == 0 else "yellow" if part * 4 < whole else "green"
    return Text(full * filled, style).append(empty * (width - filled), "dim")


def _label(name: str, style: str = "") -> Text:
    text = Text(name, style)
    text.truncate(LABEL - 1, overflow="ellipsis", pad=True)
    return Text().append_text(text).append(" ")
