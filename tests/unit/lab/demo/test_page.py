"""The page of the demo: it is complete, and captured content is only text, never run or loaded."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.markup import read
from tests.walkthrough import extended_walk, seen, walk
from vxland.lab.demo.checks import Check, judge
from vxland.lab.demo.dump import lay_out
from vxland.lab.demo.evidence import DemoEvidence, Hop
from vxland.lab.demo.page import DemoPage, stops
from vxland.lab.namespaces import Lab
from vxland.lab.page import document
from vxland.lab.topology import Kind
from vxland.model.errors import ConfigError, StartError

HOSTILE = "</pre><script src=//evil.example/x></script>\" onload='x' {{ 7 * 7 }}"


def page_of(evidence: DemoEvidence, kinds: tuple[Kind, Kind] = ("vxland", "kernel")) -> DemoPage:
    """A page that has received all steps."""
    page = DemoPage(Lab(), kinds, "static" if evidence.leases is None else "etcd")
    page.topology(kinds)
    if evidence.leases is not None:
        page.leases(evidence.leases)
    if evidence.network is not None:
        page.network(evidence.network)
    page.devices(evidence.devices)
    page.same_node(evidence.same)
    page.across(evidence.across)
    page.throughput(evidence.full, evidence.there, evidence.back)
    return page


def test_the_page_is_complete() -> None:
    """Topology, each hop's packet both ways, checks, rates, store and plugins; elements nest."""
    evidence = extended_walk()
    text = page_of(evidence).render(judge(evidence))
    reader = read(text)
    packets = [one for stop in stops(evidence.across) for one in (stop.request, stop.reply) if one]
    assert len(packets) == 12
    cells = [attrs for tag, attrs in reader.found if tag == "td" and "byte" in (attrs.get("class") or "").split()]
    assert len(cells) == sum(one.dump.length for one in packets)
    for words in ("TAP held by vxland", "kernel vxlan device", ":2379", "10.244.1.13", "1.50", "FLANNEL_MTU=1450"):
        assert words in text
    assert all(check.name.replace("'", "&#39;") in text for check in judge(evidence))
    assert [tag for tag, _ in reader.found if tag in {"h1", "h2", "h3", "h4"}][:3] == ["h1", "h2", "h2"]
    assert ("html", {"lang": "en"}) in reader.found
    assert reader.text["title"] == f"vxland demo: all {len(judge(evidence))} checks passed"


def test_it_loads_nothing() -> None:
    """The page names no address to load from; its policy allows its own style and script by their hashes only."""
    reader = read(page_of(walk()).render(judge(walk())))
    for tag, attrs in reader.found:
        assert tag not in {"link", "img", "iframe", "object", "base", "form"}
        assert "style" not in attrs
        assert not any(name.startswith("on") or name == "src" for name in attrs)
        assert (attrs.get("href") or "#").startswith("#")
    assert "url(" not in reader.text["style"]
    assert "@import" not in reader.text["style"]
    (policy,) = (attrs["content"] for tag, attrs in reader.found if "Content-Security-Policy" in attrs.values())
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(reader.text[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_captured_content_is_only_text() -> None:
    """Markup in program output, names, store entries and check details adds no element to the page."""
    evidence = extended_walk()
    assert evidence.leases is not None
    assert evidence.network is not None
    ping = replace(evidence.across.ping, output=HOSTILE, command=HOSTILE)
    hostile = replace(
        evidence,
        across=replace(evidence.across, ping=ping),
        same=replace(evidence.same, ping=ping),
        devices=tuple(replace(device, text=HOSTILE, mac=HOSTILE) for device in evidence.devices),
        leases=tuple(replace(record, key=HOSTILE, value=HOSTILE) for record in evidence.leases),
        network=replace(evidence.network, subnet_env=HOSTILE, delegated={HOSTILE: HOSTILE}),
        there=replace(evidence.there, error=HOSTILE),
    )
    checks = [Check(HOSTILE, passed=False, detail=HOSTILE)]
    tame = read(page_of(replace(evidence, there=replace(evidence.there, error="x"))).render([Check("x", False, "x")]))
    text = page_of(hostile).render(checks)
    assert [tag for tag, _ in read(text).found] == [tag for tag, _ in tame.found]
    assert "{{ 7 * 7 }}" in text
    failure = page_of(evidence).render([], HOSTILE)
    assert "<script src" not in failure


@pytest.mark.parametrize("length", [0, 1, 13, 14, 20, 33, 34, 41, 45, 50, 63, 92, 148])
def test_every_byte_of_a_packet_has_one_cell_and_one_field(length: int) -> None:
    """Truncated anywhere, bytes are neither lost nor doubled, and the fields of a layer cover it without gaps."""
    frame = walk().across.hops[2].seen[0].frame[:length]
    dump = lay_out(seen(frame))
    cells = [cell for row in dump.rows for cell in row.cells]
    assert bytes.fromhex("".join(cell.digits for cell in cells)) == frame
    at = 0
    for part in dump.parts:
        assert part.layer.at == at
        for number, field in part.fields:
            assert field.at == at
            assert {cell.field for cell in cells[at : at + field.length]} == {number}
            assert field.length > 0
            at += field.length
        assert at == part.layer.at + part.layer.length
    assert at == len(frame)


def test_layers_have_distinct_colours() -> None:
    """The pods' frame has the same kinds inside VXLAN; a truncated header has the kind `other`."""
    across = walk().across
    bare, _, carried = (lay_out(hop.seen[0]) for hop in across.walked)
    kinds = [part.kind for part in carried.parts]
    assert len(set(kinds)) == len(kinds) == 8
    assert kinds[4:] == [part.kind for part in bare.parts]
    cut = lay_out(seen(across.hops[2].seen[0].frame[:45]))
    assert [(part.title, part.kind) for part in cut.parts][-1] == ("cut short", "other")


def test_a_hop_without_the_packet_is_marked() -> None:
    """The rest of the journey is shown as usual."""
    evidence = walk()
    hops = (*evidence.across.hops[:2], Hop("node 1", "ens33", ()), *evidence.across.hops[3:])
    lost = replace(evidence, across=replace(evidence.across, hops=hops))
    text = page_of(lost).render(judge(lost))
    assert text.count("Not seen here.") == 2
    assert "1 of " in text


def test_a_failed_run_has_a_page() -> None:
    """The page has the reason and the results until then, at the start and half-way."""
    page = DemoPage(Lab(), ("vxland", "vxland"), "static")
    text = page.render([], "ip failed: no such device; modprobe veth")
    assert "no such device" in text
    assert "The run failed" in text
    assert "192.168.111.128" in text
    page.same_node(walk().same)
    half = page.render([], "interrupted")
    read(half)
    assert "Pods of one node" in half
    assert 'id="checks"' not in half
    assert 'id="journey"' not in half


@pytest.mark.parametrize("place", ["none/page.html", "file/page.html", "."])
def test_an_unwritable_file_is_refused_first(tmp_path: Path, place: str) -> None:
    """The error has key, value and remedy."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--report: .*name a file") as caught:
        document.refuse_unwritable("--report", tmp_path / place)
    assert caught.value.key == "--report"
    with pytest.raises(StartError, match="cannot be written"):
        document.write(tmp_path / place, "")


def test_the_check_for_writing_changes_nothing(tmp_path: Path) -> None:
    """An earlier page stays until the new one is written; a new file is not created."""
    old, new = tmp_path / "old.html", tmp_path / "new.html"
    old.write_text("earlier")
    for path in (old, new):
        document.refuse_unwritable("--report", path)
    assert old.read_text() == "earlier"
    assert not new.exists()


def test_both_pictures_show_every_name_and_address() -> None:
    """Wide and narrow, each device of each node, as CNI plugins or a user named it."""
    text = page_of(walk()).render([])
    wide, tall = re.findall(r'<svg class="topology.*?</svg>', text, re.DOTALL)
    for picture in (wide, tall):
        for words in ("pod A", "pod D", "veth-c", "10.244.0.1/24", "10.244.1.0/32", "192.168.111.129", "UDP 8472"):
            assert words in picture
        assert picture.count('class="hop" cx') == 6
