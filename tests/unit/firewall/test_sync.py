"""The keeper of the rules over programs that fail as real ones do; the real ones: tests/netns/test_firewall.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from textwrap import dedent

import pytest
from structlog.testing import capture_logs

from vxland.firewall import programs
from vxland.firewall.programs import FirewallPrograms
from vxland.firewall.rules import Flavour, RulesWant, nft_text
from vxland.firewall.sync import FirewallSync
from vxland.model.errors import StartError

WANT = RulesWant(
    networks=(ip_network("10.244.0.0/16"),), subnets=(ip_network("10.244.1.0/24"),), masquerade=True, forward=True
)
Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """A maker of the only programs there are: name and shell script. They see their folder as $HERE."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HERE", str(tmp_path))

    def make(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{dedent(script)}")
        path.chmod(0o755)

    return make


NFT = """\
    case "$1" in
    list) cat "$HERE/$4" 2>/dev/null || { echo "Error: No such file or directory" >&2; exit 1; } ;;
    *) sed -n '3,$p' > "$HERE/new"; name=$(awk 'NR == 1 {print $3}' "$HERE/new"); mv "$HERE/new" "$HERE/$name" ;;
    esac
"""


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(("flavour", "name"), [("iptables", "iptables-save"), ("nftables", "nft")])
async def test_a_missing_program_is_told_once_with_a_remedy(flavour: Flavour, name: str) -> None:
    """Every look tries again; only the first one is logged; nothing raises."""
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, flavour)
    with capture_logs() as logs:
        settled = [await sync.settle() for _ in range(3)]
    assert settled == [False] * 3
    assert [entry["event"] for entry in logs] == ["firewall_failed"]
    other = "nftables" if flavour == "iptables" else "iptables"
    assert sync.error == (
        f"{name} is not installed; install the package {flavour}, or choose firewall.flavour: {other}"
    )
    assert sync.counters.failed == {4: 3}


@pytest.mark.usefixtures("program")
async def test_no_program_is_no_error_where_no_rules_are_wanted() -> None:
    """A node that wants none needs neither iptables nor nft, nor does its clean-up."""
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(replace(WANT, masquerade=False, forward=False))
    assert await sync.settle()
    assert sync.error == ""
    assert not await sync.remove()


async def test_nftables_mode_does_without_iptables(program: Program, tmp_path: Path) -> None:
    """The other flavour's clean-up needs no iptables; flannel's ends flanneld."""
    program("nft", NFT)
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "nftables")
    assert await sync.settle()
    assert (tmp_path / "flannel-ipv4").read_text() == nft_text(WANT, 4)


async def test_rules_listed_in_another_form_are_not_made_again(program: Program, tmp_path: Path) -> None:
    """Versions differ in how they print a rule; what is listed after applying is what is looked for from then on."""
    program("nft", NFT.replace('cat "$HERE/$4"', 'sed "s/0x00004000/0x4000/" "$HERE/$4"'))
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "nftables")
    assert await sync.settle()
    assert await sync.settle()
    assert sync.counters.mended.total() == 0
    (tmp_path / "flannel-ipv4").unlink()
    assert await sync.settle()
    assert sync.counters.mended == {4: 1}


async def test_a_listing_that_lacks_a_rule_is_never_taken_for_another_form(program: Program) -> None:
    """Somebody who deletes a rule at once is not believed."""
    program("nft", NFT.replace('cat "$HERE/$4"', 'sed "/0x00004000/d" "$HERE/$4"'))
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "nftables")
    for _ in range(3):
        assert await sync.settle()
    assert sync.counters.mended == {4: 2}


async def test_random_ports_are_done_without_where_they_cannot_be_had(program: Program, tmp_path: Path) -> None:
    """Told once with the reason; from then on plain masquerade is what is looked for."""
    refuse = 'if grep fully-random "$HERE/given" >&2; then exit 1; fi'
    program("nft", NFT.replace("*) ", f'*) cat > "$HERE/given"; {refuse}; exec < "$HERE/given"; '))
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "nftables")
    with capture_logs() as logs:
        assert await sync.settle()
        assert await sync.settle()
    told = [entry for entry in logs if entry["event"] == "fully_random_off"]
    assert len(told) == 1
    assert "masquerade fully-random" in told[0]["error"]
    assert (tmp_path / "flannel-ipv4").read_text() == nft_text(replace(WANT, fully_random=False), 4)
    assert sync.counters.mended.total() == 0


async def test_an_nft_that_cannot_be_asked_keeps_no_node_from_being_ready(program: Program, tmp_path: Path) -> None:
    """A kernel with legacy iptables alone has no nftables to clean: told once, tried again, no error."""
    program("nft", "echo 'netlink: Error: cache initialization failed: Protocol not supported' >&2; exit 1")
    program("iptables-save", 'cat "$HERE/saved" 2>/dev/null; true')
    program("iptables-restore", 'sed "s/COMMIT//" > "$HERE/saved"')
    missing = "echo 'No chain/target/match by that name' >&2; exit 1"
    program("iptables", f'grep -se "^-A $5 " "$HERE/saved" || case $5 in FLANNEL*) {missing} ;; esac')
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "iptables")
    with capture_logs() as logs:
        assert await sync.settle()
        assert await sync.settle()
    assert [entry["event"] for entry in logs] == ["firewall_not_cleaned", "firewall_set"]
    assert sync.error == ""
    assert (tmp_path / "saved").exists()


async def test_a_new_reason_is_told_and_success_ends_it(program: Program) -> None:
    """One line for each reason, and readiness once the rules are in."""
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "nftables")
    with capture_logs() as logs:
        for complaint in ("Operation not permitted", "Operation not permitted", "Protocol wrong type"):
            program("nft", f"echo 'netlink: Error: {complaint}' >&2; exit 1")
            assert not await sync.settle()
        program("nft", NFT)
        assert await sync.settle()
    told = [entry for entry in logs if entry["log_level"] != "debug"]
    assert [entry["event"] for entry in told] == ["firewall_failed", "firewall_failed", "firewall_set"]
    assert "grant CAP_NET_ADMIN" in told[0]["error"]
    assert told[1]["error"].endswith("mend what it complains of, or choose firewall.flavour: iptables")
    assert sync.error == ""


async def test_a_program_that_does_not_end_is_given_up(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of another program may be held for ever; the error says how to find who holds it."""
    monkeypatch.setattr(programs, "_TIMEOUT_S", 0.05)
    program("nft", "exec sleep 60")
    with pytest.raises(StartError, match=r"`nft list table ip x` did not end within .*/run/xtables.lock"):
        await FirewallPrograms().nft_table("ip", "x")


async def test_a_program_that_cannot_be_started_is_an_error(program: Program, tmp_path: Path) -> None:
    """Such as one for another processor."""
    program("nft", "")
    (tmp_path / "nft").write_bytes(b"\x7fELF")
    with pytest.raises(StartError, match="nft cannot be started: Exec format error"):
        await FirewallPrograms().nft("")


@pytest.mark.parametrize("resync_s", [86400, 0.01], ids=["something else is wanted", "time is up"])
async def test_run_looks_again_when(program: Program, tmp_path: Path, resync_s: float) -> None:
    """A new want is reached at once, and what is lost comes back without one."""
    program("nft", NFT)
    sync = FirewallSync(FirewallPrograms(), resync_s)
    sync.set_want(WANT, "nftables")
    assert await sync.settle()
    table = tmp_path / "flannel-ipv4"
    table.unlink()
    task = asyncio.create_task(sync.run())
    if resync_s > 1:
        sync.set_want(WANT, "nftables")
    async with asyncio.timeout(20):
        while not table.exists():  # noqa: ASYNC110  (nobody tells of a file)
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert table.read_text() == nft_text(WANT, 4)
