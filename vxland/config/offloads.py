"""Offloads from `datapath.offloads` as YAML read it. Each refusal is a ValueError whose text is the remedy."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from vxland.model.kernel_state import Offloads, Use

_NAMES = [each.name for each in fields(Offloads)]


def _offloads(raw: object) -> Offloads:
    """Read `auto`, `off`, or a mapping of names to auto, on or off, which YAML 1.1 takes for truth values."""
    if isinstance(raw, Offloads):
        return raw
    if raw == "auto":
        return Offloads()
    if raw is False or raw == "off":
        off: dict[str, Use] = dict.fromkeys(_NAMES, "off")
        return Offloads(**off)
    if not isinstance(raw, dict):
        msg = "write auto, off, or a mapping such as {udp_segment: off, join_udp: on}"
        raise ValueError(msg)  # noqa: TRY004  (pydantic makes an error of the key of this one only)
    return Offloads(**{_name(key): _use(str(key), value) for key, value in raw.items()})


def _name(raw: object) -> str:
    if (name := str(raw)) in _NAMES:
        return name
    near = get_close_matches(name.lower(), _NAMES, n=1, cutoff=0.5)
    shown = ascii(name)[1:-1][:40]
    msg = f"write {near[0]} instead of {shown}" if near else f"{shown}: name one of {', '.join(_NAMES)}"
    raise ValueError(msg)


def _use(name: str, raw: object) -> Use:
    match raw:
        case "auto":
            return "auto"
        case "on" | True:
            return "on"
        case "off" | False:
            return "off"
        case _:
            msg = f"{name}: write auto, on or off"
            raise ValueError(msg)


_USE = {"enum": ["auto", "on", "off", True, False]}
_MAPPING = {"type": "object", "additionalProperties": False, "properties": dict.fromkeys(_NAMES, _USE)}

OffloadsValue = Annotated[
    Offloads, PlainValidator(_offloads), WithJsonSchema({"anyOf": [{"enum": ["auto", "off", False]}, _MAPPING]})
]
