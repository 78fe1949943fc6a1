"""`underlay.sockets: inherited`: what it requires, and what it has no use for."""

from __future__ import annotations

import pytest

from tests.configs import SOUND, problems, text_of
from vxland.config import parse

ROOTLESS = {"underlay__sockets": "inherited", "underlay__mtu": 1500}


def test_address_and_mtu_come_from_the_file() -> None:
    """The MTU of the pods follows from that of the underlay."""
    settings = parse(text_of(SOUND, **ROOTLESS))
    assert (settings.underlay.sockets, settings.underlay.mtu) == ("inherited", 1500)
    assert parse(text_of(SOUND)).underlay.sockets == "own"


def test_what_is_missing() -> None:
    """There is no interface from which vxland could take them."""
    found = problems(text_of(SOUND, underlay={"sockets": "inherited"}))
    assert [(key, value) for key, value, _ in found] == [("underlay.address", None), ("underlay.mtu", None)]
    assert all("inherited vxland" in remedy for _, _, remedy in found)
    assert problems(text_of(SOUND, underlay__mtu=1500)) == [
        (
            "underlay.mtu",
            1500,
            "leave it out, or write inherited as underlay.sockets: otherwise the interface's own MTU counts",
        )
    ]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("underlay.interface", "ens33", "the interface is in another network namespace"),
        ("underlay.interface_regex", "ens", "the interface is in another network namespace"),
        ("underlay.can_reach", "192.168.111.129", "the interface is in another network namespace"),
        ("underlay.source_ports", 4, "flows are spread over the ports of the sockets"),
        ("underlay.df", "set", "vxland does not see path MTUs there"),
        ("underlay.df", "inherit", "vxland does not see path MTUs there"),
        ("security.input_filter", "nftables", "datagrams arrive in a namespace whose rules vxland cannot change"),
    ],
)
def test_what_has_no_use(key: str, value: object, why: str) -> None:
    """Each is refused by its key and value, with the reason."""
    ((found, shown, remedy),) = problems(text_of(SOUND, **ROOTLESS, **{key.replace(".", "__"): value}))
    assert (found, shown) == (key, value)
    assert "underlay.sockets inherited" in remedy
    assert why in remedy


@pytest.mark.parametrize(("value", "remedy"), [(117, "use 118 or more"), (65536, "use 65535 or less")])
def test_an_mtu_out_of_range(value: int, remedy: str) -> None:
    """The least carries an overlay of 68 bytes."""
    assert problems(text_of(SOUND, **ROOTLESS | {"underlay__mtu": value})) == [("underlay.mtu", value, remedy)]


def test_another_word() -> None:
    """The key has two values."""
    ((key, value, remedy),) = problems(text_of(SOUND, underlay__sockets="passed"))
    assert (key, value, remedy) == ("underlay.sockets", "passed", "write own or inherited")
