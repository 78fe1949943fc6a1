"""Files that are refused as a whole, or for their keys: YAML, unknown and missing keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.configs import SOUND, problems, text_of
from vxland.config import Settings, load
from vxland.model.errors import InvalidConfigError


def test_an_unknown_key_names_where_it_belongs() -> None:
    """The remedy names the nearest known key, or the section that has it, or the known keys."""
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


def test_missing_keys_of_a_peer() -> None:
    """Each missing key of a peer is one problem."""
    remedy = "add it: every peer has a subnet, a vtep and a mac"
    assert problems(text_of(SOUND, registry__peers__1={"subnet": "10.244.2.0/24"})) == [
        ("registry.peers[1].vtep", None, remedy),
        ("registry.peers[1].mac", None, remedy),
    ]
    assert problems(text_of(SOUND, registry__peers__1__subnet=[])) == [
        ("registry.peers[1].subnet", "[]", "list at least one subnet")
    ]


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}", "---\n", "overlay:\n"])
def test_an_empty_file(text: str) -> None:
    """The problems are the two keys without a default."""
    assert problems(text) == [
        ("overlay.network", None, "give the cluster's pod network, such as 10.244.0.0/16"),
        ("overlay.subnet", None, "give this node's part of overlay.network: a static registry assigns none"),
    ]


def test_all_problems_of_a_file_at_once() -> None:
    """Invalid values do not hide problems between the others; each value has one problem, and is never missing."""
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("overlay: [", "line 1, column 11: expected the node content, but found '<stream end>'"),
        ("overlay:\n  vni: 1\n  vni: 2\n", "line 3, column 3: the key 'vni' appears twice"),
        ("a: 2026-99-99", "line 1, column 4: this value cannot be read"),
        ("a: !!int ''", "line 1, column 4: this value cannot be read"),
        ("a: !!python/name:os.system x", None),
        ("a: \x07", None),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_invalid_yaml(text: str, value: str | None) -> None:
    """The one problem has the source as its key, and the place in its value."""
    (found,) = problems(text)
    assert found[0] == "configuration"
    assert value is None or found[1] == value


@pytest.mark.parametrize(
    "word", ["*hunter2", "!hunter2 x", "!hunter2!x y", "!!int hunter2", "&a [&a hunter2, *hunter2]"]
)
def test_a_password_that_yaml_takes_for_something_else(word: str) -> None:
    """Without quotes it is an alias or a tag, and the error showed it: on a terminal, in logs, in archives."""
    (found,) = problems(f"etcd: {{password: {word}}}")
    assert "hunter2" not in repr(found)
    assert found[2].startswith("correct the YAML there")


def test_a_file_that_is_no_mapping() -> None:
    """The remedy for a list or a word names the sections."""
    keys = ", ".join(Settings.model_fields)
    assert problems("- a") == [("configuration", "['a']", f"write a mapping of {keys}")]


def test_a_file_without_end() -> None:
    """All memory of the machine was taken for it."""
    with pytest.raises(InvalidConfigError) as caught:
        load(Path("/dev/zero"))
    assert str(caught.value) == "/dev/zero: 'more than 16 MiB': name a configuration file"


def test_load_names_the_file(tmp_path: Path) -> None:
    """A missing file, one that is no text, and invalid YAML are reported under the file's name."""
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
