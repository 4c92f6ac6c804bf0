"""What can be done to a network while it runs: ``TARGET ACTION [ARGUMENT...]``, of the command line or a program."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from qtunnel.config.types import Percentage
from qtunnel.errors import NetworkError, printable
from qtunnel.qkdnet.link import Happening, Link
from qtunnel.qkdnet.network import Network
from qtunnel.simulator.units import Decibels, Kilometres

MAX_SHOWN = 60
"""Characters of a command's word that an error repeats."""

LINK_ACTIONS = {
    "cut": "no light passes any more; keys in store can still be used",
    "restore": "as in the topology again: no cut, eavesdropper, meddling, noise or loss",
    "eavesdrop intercept-resend [SHARE%]": "somebody measures pulses and sends them again; all of them, or a share",
    "eavesdrop blind": "somebody controls the detectors with bright light",
    "messages lose [SHARE%]": "somebody loses a share of the messages in which keys are relayed over it, or all",
    "messages late": "each of them arrives when the next one is sent",
    "messages forge": "each of them is changed on its way",
    "noise ERROR%": "so many more errors of the optics (cv: shot noise units, such as 0.05)",
    "loss DECIBELS": "so much more loss, such as '3 dB'",
    "distance KILOMETRES": "the fibre's length, such as '80 km'",
}
NODE_ACTIONS = {
    "cut": "the node is lost: nothing goes through it, its KME answers 503",
    "restore": "it is back",
}


def _shown(word: str) -> str:
    """A word of the command, for an error."""
    return printable(" ".join(word.split()))[:MAX_SHOWN]


def perform(network: Network, target: str, action: str, arguments: Sequence[str]) -> list[Happening]:
    """Do it now; what followed at once. Raises ``NetworkError`` that says what there is instead."""
    if target in network.links:
        return _on_link(network, network.links[target], action, list(arguments))
    if target in network.nodes:
        steps: dict[str, Callable[[str], list[Happening]]] = {"cut": network.stop_node, "restore": network.start_node}
        if action not in steps or arguments:
            raise NetworkError(f"{target} {_shown(action)}: a node can be {_listed(NODE_ACTIONS)}")
        return steps[action](target)
    raise NetworkError(
        f"there is no link or node {target!r}; links: {', '.join(network.links)}; nodes: {', '.join(network.nodes)}"
    )


def _on_link(network: Network, link: Link, action: str, arguments: list[str]) -> list[Happening]:
    before = (link.noise, link.extra_loss, link.intercepted, link.blinded, link.channel)
    try:
        return _do(link, network.now, action, arguments)
    except (ValueError, NotImplementedError, ArithmeticError) as error:
        link.noise, link.extra_loss, link.intercepted, link.blinded, link.channel = before
        words = printable(" ".join(str(error).split()))[:300]
        raise NetworkError(f"{link.name} {_shown(action)}: {words}") from None


def _do(link: Link, now: float, action: str, arguments: list[str]) -> list[Happening]:
    match action, arguments:
        case "cut", []:
            return link.cut(now)
        case "restore", []:
            return link.restore(now)
        case "eavesdrop", ["blind"]:
            return link.eavesdrop(now, "blind")
        case "eavesdrop", ["intercept-resend", *rest] if len(rest) < 2:
            share = _share(rest[0]) if rest else 1.0
            if share == 0:
                raise ValueError("who intercepts nothing is nobody; name a share above 0%, or restore the link")
            return link.eavesdrop(now, "intercept-resend", share)
        case "messages", ["lose", *rest] if len(rest) < 2:
            return link.meddle(now, "lose", _share(rest[0]) if rest else 1.0)
        case "messages", ["late" | "forge" as how]:
            return link.meddle(now, how)
        case "noise", [amount]:
            return link.add_noise(now, _noise(link, amount))
        case "loss", [*words] if words:
            return link.add_loss(now, _value(Decibels, _with_unit(words, "dB")))
        case "distance", [*words] if words:
            kilometres = _value(Kilometres, _with_unit(words, "km"))
            if not 0 < kilometres <= 20_000:
                raise ValueError("a fibre has from 1 m to 20000 km")
            return link.set_distance(now, kilometres)
    raise ValueError(f"a link can be told: {_listed(LINK_ACTIONS)}")


def _with_unit(words: list[str], unit: str) -> str:
    """``80``, ``80km``, ``80 km``: on a command line the unit is clear."""
    text = " ".join(words)
    return f"{text} {unit}" if re.fullmatch(r"-?[\d.]+", text) else text


def _noise(link: Link, text: str) -> float:
    if link.metric == "QBER":
        found = _share(text)
        if found > 0.5:
            raise ValueError("more errors than 50% are none; from 0% to 50%")
        return found
    if not re.fullmatch(r"\d{1,3}(\.\d{1,9})?", text):
        raise ValueError("noise of a cv link is in shot noise units, such as 0.05")
    return float(text)


def _share(text: str) -> float:
    found = _value(Percentage, text)
    if found > 1:
        raise ValueError("must be from 0% to 100%")
    return found


def _value(kind: Any, text: str) -> float:
    try:
        return float(TypeAdapter(kind).validate_python(text))
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _listed(actions: dict[str, str]) -> str:
    return ", ".join(actions)
