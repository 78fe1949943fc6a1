"""Single values of the configuration file that are refused: key, value and remedy."""

from __future__ import annotations

import pytest

from tests.configs import SOUND, problems, text_of

NUMBER = "write a whole number, without quotes"


NOT_V4_OR_V6 = "write an IPv4 or IPv6 address, such as 192.168.111.129"


UNICAST = "give the unicast address of one node's underlay interface"


PREFIX = "write it with its prefix length, such as 10.244.1.0/24"


QUOTES = 'put it in quotes, as in "{}": YAML took it for a number'


SIX_BYTES = "write six bytes in hex with colons between them, such as ce:5f:f6:73:cf:b9"


MTU = "write auto, or a whole number from 68 to 65485 without quotes"


VALUE = "give it a value, or remove the key"


IFNAME = "use a name without blanks, / : and %, such as flannel.1"


LISTEN = "write ADDRESS:PORT with a numeric address, such as 127.0.0.1:9472, or [::1]:9472; empty is off"


SOCKET = "write an absolute path, such as /run/vxland/control.sock"


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
        ("overlay.mac", "ce-5f-f6-73-cf-b9", SIX_BYTES),
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
            "use a unicast MAC, with an even first byte: an odd one makes it multicast",
        ),
        ("overlay.network", "10.244.0.0", PREFIX),
        ("overlay.network", "10.244.0.0/255.255.0.0", PREFIX),
        ("overlay.network", "10.244.0.0/33", "write an IPv4 or IPv6 subnet, such as 10.244.1.0/24"),
        ("overlay.network", "224.0.0.0/8", "use unicast addresses, such as 10.244.1.0/24"),
        ("overlay.subnet", "10.244.0.5/24", "write 10.244.0.0/24: 10.244.0.5 has bits set after the prefix"),
        ("overlay.subnet", "10.245.0.0/24", "use a part of 10.244.0.0/16, the overlay.network"),
        ("overlay.subnet", "fd00::/64", "use a part of 10.244.0.0/16, or add an IPv6 network to overlay.network"),
        ("overlay.subnet", "10.244.0.0/31", "use /30 or shorter: the gateway and the pods need addresses"),
        ("underlay.interface", "eth 0", IFNAME),
        ("underlay.address", "node1", NOT_V4_OR_V6),
        ("underlay.address", "0.0.0.0", UNICAST),  # noqa: S104  (refused)
        ("underlay.address", "fe80::1%ens33", "leave out %ens33: underlay.interface names the interface"),
        ("underlay.address", "::ffff:10.0.0.1", "write 10.0.0.1: it is an IPv4-mapped address"),
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
        ("registry.peers[1].subnet", "10.244.2.9/24", "write 10.244.2.0/24: 10.244.2.9 has bits set after the prefix"),
        ("registry.peers[1].vtep", "255.255.255.255", UNICAST),
        ("registry.peers[1].vtep", "::", UNICAST),
        ("registry.peers[1].vtep", 10, QUOTES.format("192.168.111.129")),
        ("registry.peers[1].vtep", None, VALUE),
        ("registry.peers[1].mac", "3a:87", SIX_BYTES),
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
    """The problem has the file's key and value, and what to write instead; there is no other problem."""
    change = {key.replace(".", "__").replace("[", "__").replace("]", ""): value}
    shown = value if not isinstance(value, str) or len(value) <= 80 else value[:80] + "..."
    assert problems(text_of(SOUND, **change)) == [(key, shown, remedy)]


@pytest.mark.parametrize("key", ["overlay__mac", "overlay__device", "underlay__interface", "underlay__address"])
def test_an_optional_key_without_a_value(key: str) -> None:
    """`mac:` without a value is the same as no key."""
    assert problems(text_of(SOUND, **{key: None})) == []


def test_a_huge_value_is_shortened() -> None:
    """Lists that YAML's aliases multiply, and numbers longer than Python writes, make one short line."""
    doubled = "".join(f"  x{at}: &x{at} [{', '.join([f'*x{at - 1}'] * 9)}]\n" for at in range(1, 40))
    bomb = f"overlay:\n  x0: &x0 [1]\n{doubled}  vni: *x39\n  port: 0x{'f' * 5000}\n  mtu: [0x{'f' * 5000}]\n"
    found = problems(bomb)
    assert ("overlay.port", "a number of 20000 bits", "use 65535 or less") in found
    assert ("overlay.mtu", "[a number of 20000 bits]", MTU) in found
    assert all(len(repr(value)) < 100 for _, value, _ in found)


@pytest.mark.parametrize("workers", ["0", "17", "many", "true", "1.5"])
def test_workers_out_of_range(workers: str) -> None:
    """A number of workers out of range is one problem, not one for each type of the union."""
    ((key, _, remedy),) = problems(text_of(SOUND) + f"datapath: {{workers: {workers}}}\n")
    assert (key, remedy) == ("datapath.workers", "write auto, or a whole number from 1 to 16")
