"""iptables and nft in the current network namespace: they list the rules that exist, and write others.

These are programs because flannel's rules must be in the backend (legacy or nf_tables) that the host's other rules are
in (backend.py), and iptables has one program for each. nft lists as JSON; iptables has only its save format.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import structlog

from vxland.firewall.backend import BACKENDS, Backend, choose, has_kubelet_chains
from vxland.firewall.nft_listing import NftObject, NftTable, parse_listing, table_of
from vxland.firewall.rules import ChainKey, Family, Flavour
from vxland.firewall.run_program import output_of, run_program
from vxland.model.errors import StartError

MAX_JSON: Final = 4 << 20
"""Bytes of nft's JSON that are read: the event loop turns them into values in 50 ms."""

_IPTABLES: Final = {4: "iptables", 6: "ip6tables"}

# What iptables -S prints for a chain that does not exist: legacy and late nf_tables versions, and earlier nf_tables.
_NO_CHAIN: Final = ("No chain/target/match by that name", "is incompatible, use 'nft' tool")
_BUILT_IN: Final = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_NO_TABLE: Final = "No such file or directory"
_LEGACY_TABLES: Final = tuple(Path(f"/proc/thread-self/net/{name}_tables_names") for name in ("ip", "ip6"))

log = structlog.get_logger()


class FirewallPrograms:
    """The kernel's firewall rules. Every async method raises StartError, with the program's complaint, if it fails.

    `backend` is the backend of iptables that is read and written. It is "" before the first choose(): then the
    `iptables` of the path is used.
    """

    def __init__(self, backend: Backend | Literal[""] = "") -> None:
        self.backend = backend

    async def choose(self) -> bool:
        """Choose the backend by the rules in both; return whether it differs from the one before. Never raises."""
        saved: dict[Backend, str] = {"nft": await self._saved("nft", "-t", "mangle")}
        if not has_kubelet_chains(saved["nft"]):  # the mangle table is small; all of a node's rules may take a second
            saved = {backend: await self._saved(backend) for backend in BACKENDS}
        default = await self._default_backend()
        chosen, reason = choose(saved, default)
        before, self.backend = self.backend, chosen
        if chosen != (before or default):
            log.info("iptables_backend", backend=chosen, reason=reason)
        return before != chosen

    def other(self) -> Self | None:
        """Return the other backend, to remove our rules from it; None if no program reads it."""
        other: Backend = "nft" if self.backend == "legacy" else "legacy"
        if not self.backend or any(shutil.which(f"{name}-{other}-save") is None for name in _IPTABLES.values()):
            return None
        return type(self)(other)

    async def _saved(self, backend: Backend, *options: str) -> str:
        """The rules of a backend in both families; unreadable ones are left out."""
        if backend == "legacy" and not any(_has_lines(path) for path in _LEGACY_TABLES):
            return ""
        found = ""
        for name in _IPTABLES.values():
            if shutil.which(f"{name}-{backend}-save") is None:
                continue
            try:
                found += await output_of("iptables", f"{name}-{backend}-save", *options)
            except StartError as exc:
                log.debug("iptables_backend_unread", backend=backend, error=str(exc))
        return found

    async def _default_backend(self) -> Backend:
        """The backend of the path's iptables; a version that does not name it is older than nf_tables."""
        try:
            return "nft" if "nf_tables" in await output_of("iptables", "iptables", "--version") else "legacy"
        except StartError:
            return "nft"

    def _iptables(self, family: Family) -> str:
        """The program, without -save or -restore; the path's if the backend has none of its own."""
        name = _IPTABLES[family]
        own = f"{name}-{self.backend}"
        return own if self.backend and shutil.which(own) is not None else name

    def installed(self, flavour: Flavour, family: Family) -> bool:
        """Return whether the programs of a flavour are installed."""
        name = self._iptables(family)
        programs = ("nft",) if flavour == "nftables" else (name, f"{name}-save", f"{name}-restore")
        return all(shutil.which(program) for program in programs)

    async def chains(self, family: Family, keys: Iterable[ChainKey]) -> Mapping[ChainKey, tuple[str, ...]]:
        """Return the rules of those iptables chains, (table, name), that exist; no other chain is read.

        A node with 5,000 Services has 15,000 rules: iptables-save takes 0.6 s for them, this 2 ms a chain.
        """
        found = {}
        for table, chain in keys:
            done = await run_program("iptables", self._iptables(family), "--wait", "-t", table, "-S", chain)
            if done.code == 0:
                found[table, chain] = tuple(line for line in done.output.splitlines() if line.startswith("-A "))
            elif chain in _BUILT_IN or not any(text in done.complaint for text in _NO_CHAIN):
                raise done.failure()  # a built-in chain that cannot be listed exists: nft has put a rule into it
        return found

    async def all_chains(self, family: Family) -> Mapping[ChainKey, tuple[str, ...]]:
        """Return the rules of every iptables chain, without loading a table that is not in use."""
        table, found = "", dict[ChainKey, list[str]]()
        for line in (await output_of("iptables", f"{self._iptables(family)}-save")).splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(":"):
                found[table, line[1:].partition(" ")[0]] = []
            elif line.startswith("-A "):
                found.setdefault((table, line.split(" ", 2)[1]), []).append(line)
        return {key: tuple(lines) for key, lines in found.items()}

    async def restore(self, family: Family, text: str) -> None:
        """Run `iptables-restore --noflush`: each table of `text` changes whole or not at all."""
        await output_of("iptables", f"{self._iptables(family)}-restore", "--noflush", "--wait", stdin=text)

    async def listing(self, family: Family, table: str, chain: str, backend: str) -> Sequence[str]:
        """Return the lines that `iptables -S` prints for a chain, its policy too; none if there is no such chain."""
        own = f"{_IPTABLES[family]}-{backend}"
        program = own if shutil.which(own) is not None else _IPTABLES[family]
        done = await run_program("iptables", program, "--wait", "-t", table, "-S", chain)
        if done.code != 0 and not any(text in done.complaint for text in _NO_CHAIN):
            raise done.failure()
        return done.output.splitlines()

    def legacy_in_use(self, family: Family) -> bool:
        """Return whether iptables' legacy filter table exists; to list it would create it."""
        try:
            return "filter" in _LEGACY_TABLES[family == 6].read_text(encoding="ascii").split()
        except OSError:
            return False

    async def nft_table(self, family: str, name: str) -> NftTable | None:
        """Return a table of nf_tables; None if it does not exist."""
        listed = await _nft_list("table", family, name)
        return None if listed is None else table_of(listed)

    async def forward_chains(self) -> Sequence[Mapping[str, Any]]:
        """Return the base chains of nf_tables that forwarded packets pass."""
        listed = await _nft_list("chains") or []
        return [body for kind, body in listed if kind == "chain" and body.get("hook") == "forward"]

    async def nft_rules(self, family: str, table: str, chain: str) -> Sequence[Sequence[Mapping[str, Any]]]:
        """Return the statements of each rule of a chain."""
        listed = await _nft_list("chain", family, table, chain)
        if listed is None:  # without its rules, the policy alone would decide
            raise StartError(f"the chain {chain} of nftables ({family} {table}) is gone", "try again: the rules change")
        return [body.get("expr", []) for kind, body in listed if kind == "rule"]

    async def nft(self, script: str) -> None:
        """Run `nft -f`: all of the script takes effect, or nothing."""
        await output_of("nftables", "nft", "-f", "-", stdin=script)


async def _nft_list(*words: str) -> list[NftObject] | None:
    """The objects that `nft -j list` prints; None if the table or chain does not exist."""
    done = await run_program("nftables", "nft", "-j", "list", *words, max_output=MAX_JSON)
    if done.code != 0:
        if _NO_TABLE in done.complaint:
            return None
        raise done.failure()
    try:
        return parse_listing(done.output)
    except ValueError as exc:
        cause = f"`{done.command}` prints no JSON that vxland can read: {exc}"
        raise StartError(cause, "install an nft that is built with JSON") from exc


def _has_lines(path: Path) -> bool:
    try:
        return bool(path.read_text(encoding="ascii"))
    except OSError:
        return False
