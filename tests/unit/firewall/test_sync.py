"""FirewallSync with programs that fail as real ones do; the real ones: tests/netns/test_firewall.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from textwrap import dedent

import pytest
from structlog.testing import capture_logs

from tests.patience import PATIENCE_S
from vxland.firewall import run_program
from vxland.firewall.programs import MAX_JSON, FirewallPrograms
from vxland.firewall.rules import FAMILIES, Flavour, RulesWant, nft_objects, nft_table, nft_text
from vxland.firewall.sync import FirewallSync
from vxland.model.errors import StartError

WANT = RulesWant(
    networks=(ip_network("10.244.0.0/16"),), subnets=(ip_network("10.244.1.0/24"),), masquerade=True, forward=True
)
Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Make the only programs that exist, by name and shell script. They find their folder in $HERE."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HERE", str(tmp_path))
    listings(tmp_path)

    def make(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{dedent(script)}")
        path.chmod(0o755)

    return make


NFT = """\
    case "$1" in
    -j) [ -e "$HERE/$5" ] || { echo "Error: No such file or directory" >&2; exit 1; }
        if grep -q fully-random "$HERE/$5"; then cat "$HERE/$5.random"; else cat "$HERE/$5.plain"; fi ;;
    *) sed -n '3,$p' > "$HERE/new"; name=$(awk 'NR == 1 {print $3}' "$HERE/new"); mv "$HERE/new" "$HERE/$name" ;;
    esac
"""


def listings(folder: Path, *, rules: int | None = None) -> None:
    """Write what NFT lists of each table: the wanted objects, or only so many of its rules."""
    for family in FAMILIES:
        for suffix, want in (("random", WANT), ("plain", replace(WANT, fully_random=False))):
            objects = nft_objects(want, family)
            kept = [each for each in objects if each[0] != "rule"] + [each for each in objects if each[0] == "rule"][
                :rules
            ]
            text = json.dumps({"nftables": [{"metainfo": {}}, *({kind: body} for kind, body in kept)]})
            (folder / f"{nft_table(family)[1]}.{suffix}").write_text(text)


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(("flavour", "name"), [("iptables", "iptables-save"), ("nftables", "nft")])
async def test_a_missing_program_is_logged_once_with_a_remedy(flavour: Flavour, name: str) -> None:
    """Every check retries; only the first failure is logged; nothing raises."""
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
async def test_no_program_is_no_error_if_no_rules_are_wanted() -> None:
    """A node without rules needs neither iptables nor nft, nor does its clean-up."""
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(replace(WANT, masquerade=False, forward=False))
    assert await sync.settle()
    assert sync.error == ""
    assert not await sync.remove()


async def test_nftables_mode_does_without_iptables(program: Program, tmp_path: Path) -> None:
    """The other flavour's clean-up does not need iptables; flannel's ends flanneld."""
    program("nft", NFT)
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "nftables")
    assert await sync.settle()
    assert (tmp_path / "flannel-ipv4").read_text() == nft_text(WANT, 4)


async def test_rules_listed_in_another_form_are_not_made_again(program: Program, tmp_path: Path) -> None:
    """Versions differ in how they list a rule; the listing after applying is the reference from then on."""
    program("nft", NFT.replace('cat "', 'sed "s/16384/\\"0x4000\\"/" "'))
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "nftables")
    assert await sync.settle()
    assert await sync.settle()
    assert sync.counters.restored.total() == 0
    (tmp_path / "flannel-ipv4").unlink()
    assert await sync.settle()
    assert sync.counters.restored == {4: 1}


async def test_a_listing_that_lacks_a_rule_is_never_taken_for_another_form(program: Program, tmp_path: Path) -> None:
    """Another program that deletes a rule at once does not define what is right."""
    program("nft", NFT)
    listings(tmp_path, rules=7)
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "nftables")
    for _ in range(3):
        assert await sync.settle()
    assert sync.counters.restored == {4: 2}


async def test_without_random_ports_masquerade_is_plain(program: Program, tmp_path: Path) -> None:
    """The refusal is logged once with its reason; from then on plain masquerade is the wanted state."""
    refuse = 'if grep fully-random "$HERE/given" >&2; then exit 1; fi'
    program("nft", NFT.replace("*) ", f'*) cat > "$HERE/given"; {refuse}; exec < "$HERE/given"; '))
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "nftables")
    with capture_logs() as logs:
        assert await sync.settle()
        assert await sync.settle()
    logged = [entry for entry in logs if entry["event"] == "fully_random_off"]
    assert len(logged) == 1
    assert "masquerade fully-random" in logged[0]["error"]
    assert (tmp_path / "flannel-ipv4").read_text() == nft_text(replace(WANT, fully_random=False), 4)
    assert sync.counters.restored.total() == 0


async def test_an_nft_that_fails_does_not_stop_a_node_with_iptables(program: Program, tmp_path: Path) -> None:
    """A kernel with legacy iptables alone has no nftables to clean: logged once, retried, no error."""
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


async def test_a_new_reason_is_logged_and_success_ends_it(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each reason, and readiness once the rules are in force."""
    monkeypatch.setattr("os.geteuid", lambda: 0)  # for another user the remedy is to be root
    sync = FirewallSync(FirewallPrograms(), 1)
    sync.set_want(WANT, "nftables")
    with capture_logs() as logs:
        for complaint in ("Operation not permitted", "Operation not permitted", "Protocol wrong type"):
            program("nft", f"echo 'netlink: Error: {complaint}' >&2; exit 1")
            assert not await sync.settle()
        program("nft", NFT)
        assert await sync.settle()
    logged = [entry for entry in logs if entry["log_level"] != "debug"]
    assert [entry["event"] for entry in logged] == ["firewall_failed", "firewall_failed", "firewall_set"]
    assert "grant CAP_NET_ADMIN" in logged[0]["error"]
    assert logged[1]["error"].endswith("fix what it reports, or choose firewall.flavour: iptables")
    assert sync.error == ""


async def test_a_program_that_hangs_is_ended(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program may hold the lock forever; the error says how to find it."""
    monkeypatch.setattr(run_program, "TIMEOUT_S", 0.05)
    program("nft", "exec sleep 60")
    with pytest.raises(StartError, match=r"`nft -j list table ip x` did not end within .*/run/xtables.lock"):
        await FirewallPrograms().nft_table("ip", "x")
    with pytest.raises(StartError, match=r"`nft -f -` did not end within"):
        await FirewallPrograms().nft("")


async def test_a_listing_without_end_is_refused(program: Program) -> None:
    """A rule set of any size costs bounded memory; the error names the command and the limit."""
    program("nft", "exec yes")
    with pytest.raises(StartError, match=f"`nft -j list table ip x` lists more than {MAX_JSON} bytes"):
        await FirewallPrograms().nft_table("ip", "x")


async def test_an_nft_without_json(program: Program) -> None:
    """Some distributions have an nft without it; the error says what to install."""
    program("nft", "echo 'table ip x {}'")
    with pytest.raises(StartError, match="install an nft that is built with JSON"):
        await FirewallPrograms().nft_table("ip", "x")
    program("nft", "echo 'Error: JSON support not compiled-in' >&2; exit 1")
    with pytest.raises(StartError, match="JSON support not compiled-in"):
        await FirewallPrograms().nft_table("ip", "x")


async def test_a_program_that_cannot_be_started_is_an_error(program: Program, tmp_path: Path) -> None:
    """A binary for another processor is an error, not a crash."""
    program("nft", "")
    (tmp_path / "nft").write_bytes(b"\x7fELF")
    with pytest.raises(StartError, match="nft cannot be started: Exec format error"):
        await FirewallPrograms().nft("")


@pytest.mark.parametrize("resync_s", [86400, 0.01], ids=["other rules are wanted", "the period has passed"])
async def test_run_applies_again_when(program: Program, tmp_path: Path, resync_s: float) -> None:
    """A change is applied at once, and lost rules are restored without one."""
    program("nft", NFT)
    sync = FirewallSync(FirewallPrograms(), resync_s)
    sync.set_want(WANT, "nftables")
    assert await sync.settle()
    table = tmp_path / "flannel-ipv4"
    table.unlink()
    task = asyncio.create_task(sync.run())
    if resync_s > 1:
        sync.set_want(WANT, "nftables")
    async with asyncio.timeout(PATIENCE_S):
        while not table.exists():  # noqa: ASYNC110  (a file sets no event)
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert table.read_text() == nft_text(WANT, 4)
