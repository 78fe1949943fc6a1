"""The fast path of a plane without a kernel: its settings for the programs, and the reasons why there is none."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from tests.unit.node.kernelless import FILE
from vxland.config import Settings
from vxland.datapath.owners import Owners
from vxland.fastpath.choice import FLOOD
from vxland.fastpath.layout import ProgramSettings
from vxland.fastpath.libbpf import BpfError
from vxland.fastpath.programs import NOTHING
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Mac, Vtep
from vxland.model.source_check import SourceCheck
from vxland.node.fast_path import FastPath
from vxland.node.surroundings import explain
from vxland.node.tunnel import Tunnel, program_settings

OWN = ip_address("192.0.2.1")
TUNNEL = Tunnel(
    underlay=Underlay("e0", 2, OWN, 1500),
    mac=Mac(2),
    mtu=1450,
    narrow={},
    source_ports=[40_000, 40_001],
    public=[],
    check_source=SourceCheck.STRICT,
)


VTEP = Vtep(ip_address("192.0.2.2"), Mac(3))


async def nothing_drained() -> tuple[int, int]:
    """Report that all queues have something in them."""
    return 0, 0


def fast_path(underlay: dict[str, Any] | None = None, **datapath: object) -> FastPath:
    """Return the fast path of a configuration."""
    file = {**FILE, "underlay": FILE["underlay"] | (underlay or {}), "datapath": datapath}
    netlink: Any = None
    return FastPath(Settings.model_validate(file), netlink, Owners(), asyncio.Lock(), lambda: TUNNEL, nothing_drained)


def settings_of(
    tunnel: Tunnel = TUNNEL, underlay: dict[str, Any] | None = None, *, short_of_cpu: bool = False, **datapath: object
) -> ProgramSettings:
    """Return the programs' settings for a configuration."""
    settings = fast_path(underlay, **datapath).settings
    return program_settings(settings, tunnel, superframes=False, short_of_cpu=short_of_cpu)


def test_the_defaults_are_flannels() -> None:
    """A TTL of 64, no DSCP, ECN copied, DF unset; and what the plane says."""
    found = settings_of()
    assert (found.ttl, found.tos, found.tos_bits, found.df) == (64, 0, 0x03, 0)
    assert (found.vni, found.port, found.mtu, found.mac, found.ports) == (1, 8472, 1450, Mac(2), [40_000, 40_001])
    assert (found.address, found.public, found.check_source) == (OWN, OWN, SourceCheck.STRICT)


@pytest.mark.parametrize(
    ("underlay", "fields"),
    [
        ({"ttl": 9}, {"ttl": 9}),
        ({"ttl": "inherit"}, {"ttl": 0}),
        ({"dscp": 46}, {"tos": 0xB8, "tos_bits": 0x03}),
        ({"dscp": "inherit"}, {"tos": 0, "tos_bits": 0xFF}),
        ({"df": "set"}, {"df": 1}),
        ({"df": "inherit"}, {"df": 2}),
    ],
)
def test_fields_of_the_outer_header(underlay: dict[str, Any], fields: dict[str, Any]) -> None:
    """As the daemon's sockets have them."""
    assert settings_of(underlay=underlay) == replace(settings_of(), **fields)


def test_the_first_public_address_of_ipv4_counts() -> None:
    """Datagrams to the others are the daemon's."""
    public = [ip_address(each) for each in ("2001:db8::7", "203.0.113.7", "203.0.113.8")]
    assert settings_of(replace(TUNNEL, public=public)).public == public[1]
    assert settings_of(replace(TUNNEL, public=public[:1])).public == OWN


def test_a_daemon_short_of_cpu_time_gets_what_no_program_can_carry() -> None:
    """No aggregates and no floods; superframes are decided with the devices."""
    assert (settings_of().aggregates, settings_of().flood) == (False, FLOOD)
    short = settings_of(short_of_cpu=True)
    assert short.aggregates
    assert short.flood > 1_000_000


def test_unattended_programs_let_go_after_the_setting() -> None:
    """In nanoseconds."""
    assert settings_of(fast_path_unattended_s=7).unattended_ns == 7_000_000_000


def test_without_programs_nothing_is_carried() -> None:
    """Counters and lists are empty, a capture finds nothing to divert, and nothing has to be left behind."""
    path = fast_path()
    with path.diverted():
        assert path.is_diverted
    assert not path.is_diverted
    path.follow()
    path.close()
    assert path.carried() == NOTHING
    assert (path.peers(), path.fill()) == ({}, {})
    assert not path.sends_to(VTEP)
    assert not path.receives_from(VTEP)
    assert path.off


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (BpfError("libbpf is not installed", 0), "install the package libbpf1"),
        (BpfError("the kernel does not load the programs", errno.EPERM), "capabilities BPF and NET_ADMIN"),
        (BpfError("the kernel does not load the programs", errno.EACCES, "R1 is no pointer"), "needs 5.13"),
        (BpfError("map peers", errno.E2BIG), "map peers"),
        (BpfError("the interface takes no tc program", errno.ENOENT), "CONFIG_NET_SCH_INGRESS"),
    ],
)
def test_a_reason_says_what_to_do(exc: BpfError, words: str) -> None:
    """As `vxlandctl status` shows it."""
    assert words in explain(exc)
