"""Settings of valid configuration files, and the values derived from them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.configs import DUAL, MAC1, MAC2, MAC3, SOUND, problems, text_of
from vxland.config import Listen, load, parse
from vxland.config.monitoring import ControlSettings
from vxland.config.settings import RegistrySettings
from vxland.model.errors import ConfigError
from vxland.model.kernel_state import OuterHeader
from vxland.model.lease import Lease, Mac, Vtep
from vxland.model.mtu import OVERHEAD
from vxland.model.source_check import SourceCheck


def test_outer_headers_are_flannels_by_default() -> None:
    """Defaults are TTL 64, DSCP 0, DF clear and checksums; other values are spelled as in ip-link."""
    assert parse(text_of(SOUND)).outer == OuterHeader(ttl=64, dscp=0, df="unset", checksum_v6=True)
    words = text_of(SOUND, underlay__ttl="inherit", underlay__dscp="inherit", underlay__df="inherit")
    assert parse(words).outer == OuterHeader(ttl=None, dscp=None, df="inherit")
    numbers = text_of(SOUND, underlay__ttl=255, underlay__dscp=63, underlay__df="set")
    assert parse(numbers).outer == OuterHeader(255, 63, "set")
    for off in (False, "off"):
        bare = text_of(SOUND, underlay__ipv6_checksum=off)
        assert parse(bare).outer == OuterHeader(checksum_v6=False)
    assert parse(text_of(SOUND, underlay__ipv6_checksum=True)).outer == OuterHeader()


def test_a_sound_file_gives_typed_values() -> None:
    """Every value has its type, and every other setting its default."""
    settings = parse(text_of(SOUND))
    assert settings.networks == (ip_network("10.244.0.0/16"),)
    assert settings.own_subnets == (ip_network("10.244.0.0/24"),)
    assert (settings.overlay.vni, settings.overlay.port, settings.overlay.mtu) == (1, 8472, None)
    assert (settings.device, settings.overlay.mac) == ("flannel.1", Mac.parse(MAC1))
    assert (settings.underlay.interface, settings.underlay.source_ports) == ((), 16)
    assert settings.underlay.address == ip_address("192.168.111.128")
    assert settings.underlay.public_address == ip_address("203.0.113.7")
    assert (settings.registry.kind, settings.security.source_check) == ("static", SourceCheck.VTEP)
    assert settings.control.socket == Path("/run/vxland/control.sock")
    assert settings.metrics.listen == Listen(ip_address("127.0.0.1"), 9472)
    assert settings.peers == {
        Lease(ip_network("10.244.1.0/24"), Vtep(ip_address("192.168.111.129"), Mac.parse(MAC2))),
        Lease(ip_network("10.244.2.0/24"), Vtep(ip_address("192.168.111.130"), Mac.parse(MAC3))),
    }


def test_a_peer_with_two_subnets_is_one_peer_with_two_leases() -> None:
    """A dual-stack peer is no duplicate of itself; IPv4 comes first whatever the file's order."""
    settings = parse(text_of(DUAL, overlay__subnet=["fd00:10:244::/64", "10.244.0.0/24"]))
    assert [subnet.version for subnet in settings.own_subnets] == [4, 6]
    assert {str(lease.subnet) for lease in settings.peers} == {"10.244.1.0/24", "fd00:10:244:1::/64"}
    assert len({lease.vtep for lease in settings.peers}) == 1


@pytest.mark.parametrize("kind", ["absent", "empty", "commented out"])
def test_a_section_that_says_nothing_has_its_defaults(kind: str) -> None:
    """`metrics:` with every key commented out is valid; so is `peers:` with every entry commented out."""
    value = {"absent": ..., "empty": {}, "commented out": None}[kind]
    changes = {} if kind == "absent" else {"metrics": value, "security": value, "control": value}
    assert parse(text_of(SOUND, **changes, registry__peers=None)) == parse(text_of(SOUND, registry__peers=[]))


@pytest.mark.parametrize(("written", "read"), [("off", "off"), ("'off'", "off"), ("vtep", "vtep"), ("false", "off")])
def test_source_check(written: str, read: str) -> None:
    """YAML 1.1 reads a bare off as false; both are off."""
    assert parse(f"{text_of(SOUND)}\nsecurity: {{source_check: {written}}}").security.source_check.label == read


@pytest.mark.parametrize(
    ("written", "read"),
    [("127.0.0.1:9472", "127.0.0.1:9472"), ("[::1]:80", "[::1]:80"), ("", "None"), (None, "None")],
)
def test_metrics_listen(written: str | None, read: str) -> None:
    """metrics.listen is ADDRESS:PORT of either family; empty is off."""
    assert str(parse(text_of(SOUND, metrics__listen=written)).metrics.listen) == read


@pytest.mark.parametrize("vtep", ["169.254.0.9", "10.0.0.1"])
def test_any_unicast_vtep_is_taken(vtep: str) -> None:
    """Link-local IPv4 is valid too: flannel uses it if an interface has no other address."""
    assert problems(text_of(SOUND, registry__peers__0__vtep=vtep)) == []


def test_load_reads_a_file(tmp_path: Path) -> None:
    """A file gives the same settings as its text."""
    path = tmp_path / "vxland.yaml"
    path.write_text(text_of(SOUND))
    assert load(path) == parse(text_of(SOUND))


TOO_SMALL = (
    "raise the underlay MTU to {} or more, for pods to have {}: the underlay MTU is {} and VXLAN over IPv{} adds {}"
)


@pytest.mark.parametrize(
    ("configured", "underlay_mtu", "family", "mtu"),
    [
        ("auto", 1500, 4, 1450),
        ("auto", 1500, 6, 1430),
        ("auto", 9000, 4, 8950),
        ("auto", 65536, 4, 65485),  # loopback's MTU is more than an IP packet holds
        ("auto", 118, 4, 68),
        (1450, 1500, 4, 1450),
        (1430, 1500, 6, 1430),
        (68, 118, 4, 68),
    ],
)
def test_overlay_mtu(configured: object, underlay_mtu: int, family: int, mtu: int) -> None:
    """The overlay MTU is the underlay's less 50 or 70, or the configured one if that fits."""
    assert parse(text_of(SOUND, overlay__mtu=configured)).overlay_mtu(underlay_mtu, family) == mtu


@pytest.mark.parametrize(
    ("base", "configured", "underlay_mtu", "family", "remedy"),
    [
        (SOUND, 1500, 1500, 4, "use 1450 or less: the underlay MTU is 1500 and VXLAN over IPv4 adds 50"),
        (SOUND, 1431, 1500, 6, "use 1430 or less: the underlay MTU is 1500 and VXLAN over IPv6 adds 70"),
        (
            SOUND,
            "auto",
            117,
            4,
            TOO_SMALL.format(118, 68, 117, 4, 50),
        ),
        (
            DUAL,
            1300,
            1349,
            6,
            TOO_SMALL.format(1350, 1280, 1349, 6, 70),
        ),
    ],
)
def test_an_mtu_that_does_not_fit(
    base: dict[str, Any], configured: object, underlay_mtu: int, family: int, remedy: str
) -> None:
    """The remedy has the largest MTU, or the underlay's necessary one: RFC 791's 68 or RFC 8200's 1280 and overhead."""
    settings = parse(text_of(base, overlay__mtu=configured))
    with pytest.raises(ConfigError) as caught:
        settings.overlay_mtu(underlay_mtu, family)
    assert (caught.value.key, caught.value.value, caught.value.remedy) == ("overlay.mtu", configured, remedy)


def test_overhead() -> None:
    """The overhead is inner Ethernet 14, VXLAN 8, UDP 8, and IPv4 20 or IPv6 40."""
    assert OVERHEAD == {4: 50, 6: 70}


def test_settings_that_need_a_restart() -> None:
    """Peers and the source check are reloadable; everything else is named with both values."""
    old = parse(text_of(SOUND))
    assert old.restart_needed(parse(text_of(SOUND, registry__peers=[], security__source_check="off"))) == []
    new = parse(text_of(SOUND, overlay__vni=7, underlay__address="192.168.111.9", overlay__subnet="10.244.0.0/25"))
    assert [str(problem) for problem in old.restart_needed(new)] == [
        "overlay.subnet: '10.244.0.0/25': restart vxland to change it: it runs with 10.244.0.0/24",
        "overlay.vni: 7: restart vxland to change it: it runs with 1",
        "underlay.address: '192.168.111.9': restart vxland to change it: it runs with 192.168.111.128",
    ]


def test_workers_by_default() -> None:
    """`auto` is one for each CPU that the process may use, four at most."""
    assert 1 <= parse(text_of(SOUND)).datapath.worker_count() <= 4
    assert parse(text_of(SOUND) + "datapath: {workers: 7}\n").datapath.worker_count() == 7


def test_the_folders_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance's files are in the folders that systemd made for it; with several or none, in the usual ones."""
    usual = (Path("/run/vxland/control.sock"), Path("/var/lib/vxland/leases.json"))
    for run, state, expected in (
        (
            "/run/vxland-blue",
            "/var/lib/vxland-blue",
            ("/run/vxland-blue/control.sock", "/var/lib/vxland-blue/leases.json"),
        ),
        ("/run/flannel:/run/vxland", "/var/lib/vxland", usual),
        ("relative", "", usual),
    ):
        monkeypatch.setenv("RUNTIME_DIRECTORY", run)
        monkeypatch.setenv("STATE_DIRECTORY", state)
        assert (ControlSettings().socket, RegistrySettings().memory) == tuple(map(Path, expected))
