"""The configuration file: for each mistake the key, the value and the remedy."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.configs import DUAL, MAC1, MAC2, PEERS, SOUND, Problem, problems, text_of
from vxland.config import Settings, load
from vxland.model.errors import InvalidConfigError

NUMBER = "write a whole number, without quotes"
NOT_V4_OR_V6 = "write an IPv4 or IPv6 address, such as 192.168.111.129"
UNICAST = "give the unicast address of one node's underlay interface"
PREFIX = "write it with its prefix length, such as 10.244.1.0/24"
QUOTES = 'put it in quotes, as in "{}": YAML took it for a number'
SIX_OCTETS = "write six octets in hex with colons between them, such as ce:5f:f6:73:cf:b9"
MTU = "write auto, or a whole number from 68 to 65485 without quotes"
VALUE = "give it a value, or remove the key"
IFNAME = "use a name without blanks, / : and %, such as flannel.1"
LISTEN = "write ADDRESS:PORT with a numeric address, such as 127.0.0.1:9472, or [::1]:9472; empty is off"
SOCKET = "write an absolute path, such as /run/vxland/control.sock"
ONLY_OTHERS = ", this node's; peers are the other nodes only"


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("overlay.vni", -1, "use 0 or more"),
        ("overlay.vni", 1 << 24, "use 16777215 or less"),
        ("overlay.vni", "1", NUMBER),
        ("overlay.vni", True, NUMBER),
        ("overlay.vni", 1.0, NUMBER),
        ("overlay.vni", None, NUMBER),
        ("overlay.port", 0, "use 1 or more"),
        ("overlay.port", 65536, "use 65535 or less"),
        ("overlay.mtu", 67, MTU),
        ("overlay.mtu", 65486, MTU),
        ("overlay.mtu", "1450", MTU),
        ("overlay.mtu", None, MTU),
        ("overlay.device", "", IFNAME),
        ("overlay.device", "a/b", IFNAME),
        ("overlay.device", "..", IFNAME),
        ("overlay.device", "tap%d", IFNAME),
        ("overlay.device", "flannel.12345678", "use at most 15 characters: Linux allows no more"),
        ("overlay.mac", "ce-5f-f6-73-cf-b9", SIX_OCTETS),
        ("overlay.mac", 8041827010, QUOTES.format("10:20:30:40:50:10")),
        ("overlay.mac", 7, QUOTES.format("ce:5f:f6:73:cf:b9")),
        (
            "overlay.mac",
            "00:00:00:00:00:00",
            "give the MAC of the node's VXLAN device: all zero is no station's address",
        ),
        (
            "overlay.mac",
            "01:00:5e:00:00:01",
            "use a unicast MAC, with an even first octet: an odd one makes it multicast",
        ),
        ("overlay.network", "10.244.0.0", PREFIX),
        ("overlay.network", "10.244.0.0/255.255.0.0", PREFIX),
        ("overlay.network", "10.244.0.0/33", "write an IPv4 or IPv6 subnet, such as 10.244.1.0/24"),
        ("overlay.network", "224.0.0.0/8", "use unicast addresses, such as 10.244.1.0/24"),
        ("overlay.subnet", "10.244.0.5/24", "write 10.244.0.0/24: 10.244.0.5 has bits set behind the prefix"),
        ("overlay.subnet", "10.245.0.0/24", "use a part of 10.244.0.0/16, the overlay.network"),
        ("overlay.subnet", "fd00::/64", "use a part of 10.244.0.0/16, or add an IPv6 network to overlay.network"),
        ("overlay.subnet", "10.244.0.0/31", "use /30 or shorter: the gateway and the pods need addresses"),
        ("underlay.interface", "eth 0", IFNAME),
        ("underlay.address", "node1", NOT_V4_OR_V6),
        ("underlay.address", "0.0.0.0", UNICAST),  # noqa: S104  (refused)
        ("underlay.address", "fe80::1%ens33", "leave out %ens33: underlay.interface names the interface"),
        ("underlay.address", "::ffff:10.0.0.1", "write 10.0.0.1: it is an IPv4 address in IPv6 dress"),
        ("underlay.public_address", "224.0.0.1", UNICAST),
        ("underlay.public_address", "fd00::1", "use an IPv4 address, as underlay.address does: VTEPs share one family"),
        ("underlay.source_ports", 0, "use 1 or more"),
        ("underlay.source_ports", 65, "use 64 or less"),
        ("underlay.ttl", 0, "write inherit, or a whole number from 1 to 255"),
        ("underlay.ttl", 256, "write inherit, or a whole number from 1 to 255"),
        ("underlay.ttl", "64", "write inherit, or a whole number from 1 to 255"),
        ("underlay.dscp", 64, "write inherit, or a whole number from 0 to 63"),
        ("underlay.dscp", True, "write inherit, or a whole number from 0 to 63"),
        ("underlay.df", "yes", "write unset, set or inherit"),
        ("underlay.ipv6_checksum", "never", "write on or off"),
        ("registry.kind", "consul", "write static, etcd or kube"),
        ("registry.peers", "node2", "write a list with an entry for each node"),
        ("registry.peers[1]", "node2", "write a mapping of subnet, vtep, mac, sources"),
        ("registry.peers[1].subnet", "10.245.2.0/24", "use a part of 10.244.0.0/16, the overlay.network"),
        ("registry.peers[1].subnet", "10.244.2.9/24", "write 10.244.2.0/24: 10.244.2.9 has bits set behind the prefix"),
        ("registry.peers[1].vtep", "255.255.255.255", UNICAST),
        ("registry.peers[1].vtep", "::", UNICAST),
        ("registry.peers[1].vtep", 10, QUOTES.format("192.168.111.129")),
        ("registry.peers[1].vtep", None, VALUE),
        ("registry.peers[1].mac", "3a:87", SIX_OCTETS),
        ("registry.peers[1].mac", 8041827010, QUOTES.format("10:20:30:40:50:10")),
        ("security.input_filter", "on", "write off or nftables"),
        ("security.input_filter", "bpf", "write off or nftables"),
        ("security.source_check", "on", "write off, vtep or strict"),
        ("control.socket", "control.sock", SOCKET),
        ("control.socket", "/" + "a" * 107, "use a path of at most 107 bytes: a UNIX socket's address holds no more"),
        ("metrics.listen", "localhost:9472", LISTEN),
        ("metrics.listen", "::1:9472", "put the address in brackets, as in [::1]:9472"),
        ("metrics.listen", "127.0.0.1:0", "end it with a port from 1 to 65535, as in 127.0.0.1:9472"),
        ("metrics.listen", 9472, QUOTES.format("127.0.0.1:9472")),
        ("metrics", 9472, "write a mapping of listen"),
    ],
)
def test_one_mistake_is_one_problem(key: str, value: object, remedy: str) -> None:
    """The file's own key and value, and what to write instead; nothing else is blamed."""
    change = {key.replace(".", "__").replace("[", "__").replace("]", ""): value}
    shown = value if not isinstance(value, str) or len(value) <= 80 else value[:80] + "..."
    assert problems(text_of(SOUND, **change)) == [(key, shown, remedy)]


def test_a_subnet_that_holds_the_network_is_no_part_of_it() -> None:
    """Too large is outside too."""
    assert problems(text_of(SOUND, overlay__subnet="10.0.0.0/8", registry__peers=[])) == [
        ("overlay.subnet", "10.0.0.0/8", "use a part of 10.244.0.0/16, the overlay.network")
    ]


@pytest.mark.parametrize("key", ["overlay__mac", "overlay__device", "underlay__interface", "underlay__address"])
def test_an_optional_key_with_nothing_behind_it_is_left_out(key: str) -> None:
    """`mac:` alone is as good as no mac."""
    assert problems(text_of(SOUND, **{key: None})) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"registry__peers__1__subnet": "10.244.1.0/24"},
            ("registry.peers[1].subnet", "10.244.1.0/24", "overlaps 10.244.1.0/24 of registry.peers[0].subnet"),
        ),
        (
            {"registry__peers__0__subnet": "10.244.2.128/25"},
            ("registry.peers[1].subnet", "10.244.2.0/24", "overlaps 10.244.2.128/25 of registry.peers[0].subnet"),
        ),
        (
            {"registry__peers__1__subnet": "10.244.0.64/26"},
            ("registry.peers[1].subnet", "10.244.0.64/26", f"overlaps 10.244.0.0/24 of overlay.subnet{ONLY_OTHERS}"),
        ),
        (
            {"registry__peers__1__mac": MAC2},
            ("registry.peers[1].mac", MAC2, "this is registry.peers[0].mac"),
        ),
        (
            {"registry__peers__1__mac": MAC1.upper()},
            ("registry.peers[1].mac", MAC1, f"this is overlay.mac{ONLY_OTHERS}"),
        ),
        (
            {"registry__peers__1__vtep": "192.168.111.129"},
            ("registry.peers[1].vtep", "192.168.111.129", "this is registry.peers[0].vtep"),
        ),
        (
            {"registry__peers__1__vtep": "192.168.111.128"},
            ("registry.peers[1].vtep", "192.168.111.128", f"this is underlay.address{ONLY_OTHERS}"),
        ),
        (
            {"registry__peers__1__vtep": "203.0.113.7"},
            ("registry.peers[1].vtep", "203.0.113.7", f"this is underlay.public_address{ONLY_OTHERS}"),
        ),
    ],
)
def test_nothing_may_stand_twice(change: dict[str, object], problem: Problem) -> None:
    """Duplicates are the later entry's fault, and the remedy names the earlier one."""
    key, value, whose = problem
    (found,) = problems(text_of(SOUND, **change))
    assert found[:2] == (key, value)
    assert found[2].startswith("give each node a")
    assert found[2].endswith(whose)


def test_subnets_within_one_are_each_blamed_once() -> None:
    """A wide subnet early in the file makes each later one inside it a problem, however deep they nest."""
    peers = [
        {"subnet": subnet, "vtep": f"192.168.111.{130 + at}", "mac": f"02:00:00:00:01:{at:02x}"}
        for at, subnet in enumerate(["10.244.16.0/20", "10.244.17.0/24", "10.244.17.128/25", "10.244.32.0/24"])
    ]
    found = problems(text_of(SOUND, registry__peers=peers))
    assert [key for key, _, _ in found] == ["registry.peers[1].subnet", "registry.peers[2].subnet"]
    assert all(remedy.endswith("overlaps 10.244.16.0/20 of registry.peers[0].subnet") for _, _, remedy in found)


def test_the_own_addresses_may_be_the_same() -> None:
    """Advertising the address that is bound is no duplicate."""
    assert problems(text_of(SOUND, underlay__public_address="192.168.111.128")) == []


def test_vteps_share_a_family() -> None:
    """One socket family carries the tunnel: that of underlay.address, or else of the first peer."""
    remedy = "use an IPv4 address, as underlay.address does: VTEPs share one family"
    assert problems(text_of(SOUND, registry__peers__1__vtep="fd00::3")) == [
        ("registry.peers[1].vtep", "fd00::3", remedy)
    ]
    remedy = "use an IPv4 address, as registry.peers[0].vtep does: VTEPs share one family"
    found = problems(text_of(SOUND, underlay=None, registry__peers__1__vtep="fd00::3"))
    assert found == [("registry.peers[1].vtep", "fd00::3", remedy)]


def test_a_vtep_inside_a_leased_subnet_is_refused() -> None:
    """Datagrams for it would be routed into the tunnel that they carry."""
    remedy = (
        "use an address outside 10.244.1.0/24 of registry.peers[0].subnet: else the tunnel would run through itself"
    )
    found = problems(text_of(SOUND, registry__peers__1__vtep="10.244.1.9"))
    assert found == [("registry.peers[1].vtep", "10.244.1.9", remedy)]


def test_an_unknown_key_names_where_it_belongs() -> None:
    """The nearest known key, else the section that has it, else the keys known there."""
    assert problems(text_of(SOUND, overlay__prot=1)) == [("overlay.prot", 1, "write port: this key is not known")]
    assert problems(text_of(SOUND, registry__peers__1__macc=1)) == [
        ("registry.peers[1].macc", 1, "write mac: this key is not known")
    ]
    assert problems(text_of(SOUND, vni=1)) == [("vni", 1, "write it under overlay: this key is not known here")]
    keys = "network, subnet, vni, port, mtu, subnet_env_mtu, device, mac"
    assert problems(text_of(SOUND, overlay__gbp=7)) == [  # a removed setting is an unknown key
        ("overlay.gbp", 7, f"remove it, or write one of {keys}: this key is not known")
    ]
    keys = "subnet, vtep, mac, sources"
    assert problems(text_of(SOUND, registry__peers__0__zone="a")) == [
        ("registry.peers[0].zone", "a", f"remove it, or write one of {keys}: this key is not known")
    ]
    keys = ", ".join(Settings.model_fields)
    assert problems(text_of(SOUND) + "12: x\n") == [
        ("12", "x", f"remove it, or write one of {keys}: this key is not known")
    ]


def test_what_a_peer_lacks_is_named() -> None:
    """Each missing key of a peer is a problem of its own."""
    remedy = "add it: every peer has a subnet, a vtep and a mac"
    assert problems(text_of(SOUND, registry__peers__1={"subnet": "10.244.2.0/24"})) == [
        ("registry.peers[1].vtep", None, remedy),
        ("registry.peers[1].mac", None, remedy),
    ]
    assert problems(text_of(SOUND, registry__peers__1__subnet=[])) == [
        ("registry.peers[1].subnet", "[]", "list at least one subnet")
    ]


def test_dual_stack_mistakes() -> None:
    """One subnet a family, and this node needs one of each network."""
    both = ["10.244.0.0/24", "10.244.9.0/24"]
    assert problems(text_of(DUAL, overlay__subnet=both)) == [
        ("overlay.subnet", repr(both), "list at most one IPv4 and one IPv6 subnet")
    ]
    assert problems(text_of(DUAL, overlay__subnet="10.244.0.0/24")) == [
        ("overlay.subnet", "10.244.0.0/24", "add this node's part of fd00:10:244::/56, or remove that network")
    ]
    assert problems(text_of(DUAL, overlay__subnet=["10.244.0.0/24", "fd00:10:244::1"])) == [
        ("overlay.subnet[1]", "fd00:10:244::1", PREFIX)
    ]
    assert problems(text_of(DUAL, overlay__subnet=["10.244.0.0/24", "fd01::/64"])) == [
        ("overlay.subnet[1]", "fd01::/64", "use a part of fd00:10:244::/56, the overlay.network")
    ]
    assert problems(text_of(DUAL, overlay__mtu=1279)) == [
        ("overlay.mtu", 1279, "use 1280 or more: IPv6 needs it, RFC 8200 section 5")
    ]


def test_a_vni_too_long_for_a_device_name_needs_one() -> None:
    """flannel.10000000 has 16 characters; a name of one's own will do."""
    remedy = "name it, with at most 15 characters: flannel.10000000 would be too long"
    assert problems(text_of(SOUND, overlay__vni=10_000_000)) == [("overlay.device", None, remedy)]
    assert problems(text_of(SOUND, overlay__vni=10_000_000, overlay__device="vx0")) == []


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}", "---\n", "overlay:\n"])
def test_an_empty_file_lists_what_it_lacks(text: str) -> None:
    """No traceback: the two keys that have no default."""
    assert problems(text) == [
        ("overlay.network", None, "give the cluster's pod network, such as 10.244.0.0/16"),
        ("overlay.subnet", None, "give this node's part of overlay.network: a static registry assigns none"),
    ]


def test_all_problems_of_a_file_are_told_at_once() -> None:
    """Malformed values do not hide what is wrong between the others; a value is blamed once, and never as missing."""
    text = text_of(
        SOUND,
        overlay__network="10.244.0.0",
        overlay__vnii=2,
        registry__peers__0__mac="x",
        registry__peers__1__vtep="192.168.111.128",
        registry__peers__1__subnet="10.244.0.0/25",
        control="/run/x",
        security__source_check="strictly",
    )
    assert [key for key, _, _ in problems(text)] == [
        "overlay.network",
        "overlay.vnii",
        "registry.peers[0].mac",
        "security.source_check",
        "control",
        "registry.peers[1].subnet",
        "registry.peers[1].vtep",
    ]


def test_peers_keep_their_numbers_when_one_is_at_fault() -> None:
    """A problem between peers names their places in the file, also behind one that could not be read."""
    found = problems(text_of(SOUND, registry__peers=[{"subnet": 1}, *PEERS, {**PEERS[0], "subnet": "10.244.9.0/24"}]))
    assert [key for key, _, _ in found if key.startswith("registry.peers[3]")] == [
        "registry.peers[3].mac",
        "registry.peers[3].vtep",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("overlay: [", "line 1, column 11: expected the node content, but found '<stream end>'"),
        ("overlay:\n  vni: 1\n  vni: 2\n", "line 3, column 3: the key 'vni' stands twice"),
        ("a: 2026-99-99", "line 1, column 4: '2026-99-99' cannot be read"),
        ("a: !!int ''", "line 1, column 4: '' cannot be read"),
        ("a: !!python/name:os.system x", None),
        ("a: \x07", None),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_bad_yaml_is_told_with_its_place(text: str, value: str | None) -> None:
    """One problem, whose key is the source and whose value says where; never a traceback."""
    (found,) = problems(text)
    assert found[0] == "configuration"
    assert value is None or found[1] == value


def test_a_file_that_is_no_mapping() -> None:
    """A list or a word says which keys a configuration has."""
    keys = ", ".join(Settings.model_fields)
    assert problems("- a") == [("configuration", "['a']", f"write a mapping of {keys}")]


def test_a_monstrous_value_is_shown_in_short() -> None:
    """Lists that YAML's aliases multiply, and numbers longer than Python writes: still one line that helps."""
    doubled = "".join(f"  x{at}: &x{at} [{', '.join([f'*x{at - 1}'] * 9)}]\n" for at in range(1, 40))
    bomb = f"overlay:\n  x0: &x0 [1]\n{doubled}  vni: *x39\n  port: 0x{'f' * 5000}\n  mtu: [0x{'f' * 5000}]\n"
    found = problems(bomb)
    assert ("overlay.port", "a number of 20000 bits", "use 65535 or less") in found
    assert ("overlay.mtu", "[a number of 20000 bits]", MTU) in found
    assert all(len(repr(value)) < 100 for _, value, _ in found)


def test_load_names_the_file(tmp_path: Path) -> None:
    """What has no key has the file's name: missing, unreadable as text, bad YAML."""
    path = tmp_path / "vxland.yaml"
    for content, value in [
        (None, "No such file or directory"),
        (b"\xff", "byte 0: invalid start byte"),
        (b"a: [", None),
    ]:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InvalidConfigError) as caught:
            load(path)
        (problem,) = caught.value.problems
        assert problem.key == str(path)
        assert value is None or problem.value == value


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(26, 30)), max_size=8))
def test_overlaps_agree_with_comparing_every_pair(drawn: list[tuple[int, int]]) -> None:
    """Blamed are exactly the peers whose subnet overlaps an earlier one's, however they nest."""
    subnets = [ip_network((int(ip_address("10.244.16.0")) + 16 * at, prefix), strict=False) for at, prefix in drawn]
    peers = [
        {"subnet": str(subnet), "vtep": f"192.168.112.{at + 1}", "mac": f"02:00:00:00:01:{at:02x}"}
        for at, subnet in enumerate(subnets)
    ]
    expected = {
        f"registry.peers[{at}].subnet"
        for at, subnet in enumerate(subnets)
        if any(subnet.overlaps(earlier) for earlier in subnets[:at])
    }
    assert {key for key, _, _ in problems(text_of(SOUND, registry__peers=peers))} == expected


@pytest.mark.parametrize("workers", ["0", "17", "many", "true", "1.5"])
def test_workers_out_of_range(workers: str) -> None:
    """datapath.workers is auto or a number that a machine can have; one problem, not one for each way to spell it."""
    ((key, _, remedy),) = problems(text_of(SOUND) + f"datapath: {{workers: {workers}}}\n")
    assert (key, remedy) == ("datapath.workers", "write auto, or a whole number from 1 to 16")
