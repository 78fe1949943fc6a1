"""Go's syntax of command lines."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.cli.flanneld import parse
from vxland.cli.flanneld.flag_table import FLAGS
from vxland.model.errors import FlagError, InvalidConfigError


@pytest.mark.parametrize(
    ("argv", "masquerade", "prefix"),
    [
        (["-ip-masq"], True, "/coreos.com/network"),
        (["--ip-masq=true", "--ip-masq=false"], False, "/coreos.com/network"),
        (["--ip-masq=T"], True, "/coreos.com/network"),
        (["--ip-masq=0"], False, "/coreos.com/network"),
        (["--etcd-prefix", "/a", "-ip-masq"], True, "/a"),
        (["-etcd-prefix=/a", "-etcd-prefix", "/b"], False, "/b"),
        (["--etcd-prefix=a=b"], False, "a=b"),
        (["--etcd-prefix="], False, "/coreos.com/network"),
        (["--etcd-prefix", "--ip-masq"], False, "--ip-masq"),  # a value may look like a flag
        (["--etcd-prefix", "--", "--ip-masq"], True, "--"),
    ],
)
def test_gos_syntax(argv: list[str], masquerade: bool, prefix: str) -> None:
    """One dash or two, `=` or a blank; a switch takes no next argument; of repeated flags the last counts."""
    settings = parse(argv, {}).settings
    assert (settings.firewall.masquerade, settings.etcd.prefix) == (masquerade, prefix)


@pytest.mark.parametrize(
    ("argv", "masquerade", "first"),
    [
        (["-ip-masq", "false", "--kube-subnet-mgr"], True, "false"),
        (["run", "--ip-masq"], False, "run"),
        (["-", "--ip-masq"], False, "-"),
        (["", "--ip-masq"], False, ""),
        (["--", "--ip-masq"], False, "--ip-masq"),
        (["--ip-masq", "--"], True, None),
    ],
)
def test_flags_end_at_the_first_other_argument(argv: list[str], masquerade: bool, first: str | None) -> None:
    """As in Go the rest is not read; unlike flanneld, vxland logs that."""
    command = parse(argv, {})
    assert command.settings.firewall.masquerade is masquerade
    assert command.settings.registry.kind == "etcd"
    text = f"nothing is read from {first!r} on: flags end there; a switch is turned off with --FLAG=false"
    assert command.notes == (() if first is None else (text,))


@pytest.mark.parametrize(
    ("text", "number"),
    [("60", 60), ("+7", 7), ("0x3c", 60), ("0b11", 3), ("0o17", 15), ("017", 15), ("1_0", 10), ("0x_3_c", 60)],
)
def test_gos_numbers(text: str, number: int) -> None:
    """Numbers are read like strconv.ParseInt with base 0."""
    assert parse([f"--subnet-lease-renew-margin={text}"], {}).settings.etcd.renew_margin_min == number


WORDS = st.sampled_from([f"{dash}{flag.name}{value}" for flag in FLAGS for dash in ("-", "--") for value in ("", "=1")])


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8) | st.binary(
    max_size=8
).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
"""Words and variables as the kernel passes them: without NUL, and bytes that are not UTF-8 as lone surrogates."""


@given(st.lists(WORDS | TEXTS | st.sampled_from(["--", "true", "-h", "-\x1f"]), max_size=8), st.data())
def test_any_words_are_read_or_refused(argv: list[str], data: st.DataObject) -> None:
    """A command line raises nothing but FlagError and InvalidConfigError, with printable lines."""
    names = st.sampled_from([flag.variable for flag in FLAGS])
    environ = data.draw(st.dictionaries(names, TEXTS, max_size=3))
    problem = ""
    try:
        parse(argv, environ)
    except (FlagError, InvalidConfigError) as exc:
        problem = str(exc)
    assert all(line.isprintable() for line in problem.split("\n"))
