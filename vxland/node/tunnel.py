"""The properties of a plane that its programs need, and the settings of the programs made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from vxland.config import Settings
from vxland.fastpath.choice import FLOOD
from vxland.fastpath.layout import ProgramSettings
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address, Mac
from vxland.model.source_check import SourceCheck


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The properties of a plane that its programs need, at one moment."""

    underlay: Underlay
    mac: Mac
    mtu: int
    narrow: Mapping[Address, int]
    """Bytes of inner packet that the path to a VTEP carries, where that is less than the MTU of the device."""
    source_ports: Sequence[int]
    public: Sequence[Address]
    """Further addresses at which the plane receives."""
    check_source: SourceCheck
    problem: str = ""
    """Reason why the device takes no frames now; empty if it does."""


def program_settings(settings: Settings, tunnel: Tunnel, *, superframes: bool, short_of_cpu: bool) -> ProgramSettings:
    """Return the settings of programs over an IPv4 underlay.

    `superframes`: they encapsulate these too; `short_of_cpu`: they take all that they can.
    """
    outer, address = settings.outer, tunnel.underlay.address
    assert isinstance(address, IPv4Address)  # noqa: S101  (why_not() has refused others)
    public = [each for each in tunnel.public if isinstance(each, IPv4Address)]
    return ProgramSettings(
        vni=settings.overlay.vni,
        address=address,
        public=public[0] if public else address,
        port=settings.overlay.port,
        ports=tunnel.source_ports,
        mtu=tunnel.mtu,
        mac=tunnel.mac,
        ttl=outer.ttl or 0,
        tos=(outer.dscp or 0) << 2,
        tos_bits=0xFF if outer.dscp is None else 0x03,
        df=("unset", "set", "inherit").index(outer.df),
        check_source=tunnel.check_source,
        superframes=superframes,
        aggregates=short_of_cpu,
        flood=0xFFFF_FFFF if short_of_cpu else FLOOD,
        unattended_ns=settings.datapath.fast_path_unattended_s * 1_000_000_000,
    )
