"""A configuration file -> frozen settings; the only home of defaults, units and ranges."""

from vxland.config.check import clashes
from vxland.config.load import load, parse
from vxland.config.model import OVERHEAD, RELOADABLE, Overlay, Peer, Settings, SourceCheck, Underlay
from vxland.config.values import Listen

__all__ = [
    "OVERHEAD",
    "RELOADABLE",
    "Listen",
    "Overlay",
    "Peer",
    "Settings",
    "SourceCheck",
    "Underlay",
    "clashes",
    "load",
    "parse",
]
