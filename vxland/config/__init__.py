"""Frozen settings from a configuration file; the only home of defaults, units and ranges."""

from vxland.config.check import clashes
from vxland.config.flannel import EtcdSettings, FirewallSettings, KubeSettings
from vxland.config.load import load, parse, read, settings_of
from vxland.config.section import RELOADABLE
from vxland.config.settings import OverlaySettings, PeerSettings, Settings, UnderlaySettings
from vxland.config.values import Listen

__all__ = [
    "RELOADABLE",
    "EtcdSettings",
    "FirewallSettings",
    "KubeSettings",
    "Listen",
    "OverlaySettings",
    "PeerSettings",
    "Settings",
    "UnderlaySettings",
    "clashes",
    "load",
    "parse",
    "read",
    "settings_of",
]
