"""Go's regular expressions, as flannel's users write them for interfaces."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.configs import problems
from vxland.config.goregex import translate

LONG_S = "\u017f"
"""A letter outside ASCII that equals s if case is ignored."""

NAMES = (
    "eth0",
    "ETH0",
    "ens33",
    "enp3s0f1",
    "br-lan",
    "a.b",
    "k",
    LONG_S,
    "10.0.0.7",
    "fd00::1",
    "x\n",
    "[",
    "}",
    "a*",
)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("^eth[[:digit:]]+$", {"eth0"}),
        ("^e[[:alpha:]]+[[:digit:]]{2,}$", {"ens33"}),
        ("^[[:^alpha:].]+$", {LONG_S, "10.0.0.7", "[", "}"}),
        ("(?i)^eth", {"eth0", "ETH0"}),
        ("^(?:(?i)ETH)0|^ETH", {"eth0", "ETH0"}),
        ("^(e(?i)TH|bR)", {"eth0", "br-lan"}),
        (r"\Aeth0\z", {"eth0"}),
        (r"^\Q10.0.0.7\E$", {"10.0.0.7"}),
        (r"^\Qa*", {"a*"}),
        (r"^x$", set()),
        (r"(?m)^x$", {"x\n"}),
        (r"(?s)^x.$", {"x\n"}),
        (r"^x.$", set()),
        (r"^[\d.]+$", {"10.0.0.7"}),
        (r"^[^\D]", {"10.0.0.7"}),
        (r"^\W$", {LONG_S, "[", "}"}),
        (r"(?i)^\W$", {LONG_S, "[", "}"}),
        (r"(?i)^[^K]$", {LONG_S, "[", "}"}),
        (r"^\x65\x{74}\150", {"eth0"}),
        (r"^[]]|^[[]", {"["}),
        (r"^[}-]|-l", {"}", "br-lan"}),
        (r"^[a-c\-]+[.]", {"a.b"}),
        ("^a{,5}", set()),
        ("}", {"}"}),
        ("^(?P<kind>en)(?<bus>p[0-9])", {"enp3s0f1"}),
        ("(?U)^e.*h", {"eth0"}),
        ("^(|en)s33$", {"ens33"}),
        (r"^fd00:(?::1)\b", {"fd00::1"}),
        (r"^eth(^)*0", {"eth0"}),
    ],
)
def test_a_pattern_of_go_finds_what_it_finds_there(pattern: str, found: set[str]) -> None:
    """`--iface-regex='^eth[[:digit:]]+$'` found no interface, silently: Python reads `[[` differently."""
    search = re.compile(translate(pattern)).search
    assert {name for name in NAMES if search(name)} == found


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        (r"\pL+", r"'\\pL' cannot be used"),
        (r"[\p{Greek}]", r"'\\p{Greek}' cannot be used"),
        ("eth(?=0)", r"'\(\?=0' cannot be used: Go has no lookaround"),
        ("(?<!a)b", r"'\(\?<!' cannot be used"),
        (r"(a)\1", r"'\\1' cannot be used: Go has no references"),
        (r"a\Z", r"'\\Z' cannot be used"),
        ("[[:numbers:]]", r"'\[:numbers:\]' cannot be used: the classes are alnum"),
        ("a**", r"put parentheses"),
        ("a*+", r"put parentheses"),
        ("a{2}{3}", r"put parentheses"),
        ("*a", r"put something to repeat before it"),
        ("a{1001}", "repeat at most 1000 times"),
        ("a{3,2}", "the smaller number first"),
        ("(a", r"close the group"),
        ("a)", r"remove the \)"),
        ("[a", r"close the class"),
        ("[z-a]", "from the lower to the higher"),
        ("a\\", "behind the backslash"),
        ("(" * 101 + ")" * 101, "nest at most 100"),
        ("a" * 1001, "at most 1000 characters"),
    ],
)
def test_constructs_without_counterpart_are_refused(pattern: str, named: str) -> None:
    """They are refused at the start, instead of finding no interface later."""
    with pytest.raises(ValueError, match=named):
        translate(pattern)


def test_key_and_remedy() -> None:
    """`vxland check` reports them, like a start."""
    (found,) = problems("{registry: {kind: etcd}, underlay: {interface_regex: '\\pL'}}")
    assert found[:2] == ("underlay.interface_regex", r"\pL")
    assert "list the letters" in found[2]


@given(
    st.one_of(st.text(st.sampled_from("ab0^$.|()[]{}*+?\\-:,dDwWsSzAQEpxU<>P!=i\n"), max_size=12), st.text(max_size=8))
)
def test_whatever_is_written_is_a_pattern_or_refused(pattern: str) -> None:
    """A translated pattern compiles."""
    try:
        translated = translate(pattern)
    except ValueError:
        return
    re.compile(translated)
