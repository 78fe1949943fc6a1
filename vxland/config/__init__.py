"""A configuration file -> frozen settings; the only home of defaults, units and ranges."""

from vxland.config.access import SourceCheck
from vxland.config.check import clashes
from vxland.config.flannel import Etcd, Firewall, Kube
from vxland.config.load import load, parse, read, settings_of
from vxland.config.section import RELOADABLE
from vxland.config.settings import MIN_MTU_V6, OVERHEAD, Overlay, Peer, Settings, Underlay
from vxland.config.values import MIN_MTU, Listen

__all__ = [
    "MIN_MTU",
    "MIN_MTU_V6",
    "OVERHEAD",
    "RELOADABLE",
    "Etcd",
    "Firewall",
    "Kube",
    "Listen",
    "Overlay",
    "Peer",
    "Settings",
    "SourceCheck",
    "Underlay",
    "clashes",
    "load",
    "parse",
    "read",
    "settings_of",
]
