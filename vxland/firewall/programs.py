"""iptables and nft, run as programs in the current network namespace.

Programs, because flannel's rules must be in the backend (legacy or nf_tables) that the host's other rules are in
(backend.py), and iptables has one of them for each. Nothing goes through a shell; what they read comes by their input.

They are started in a thread: uvloop's own subprocesses stop the loop, and with it the GIL, for 2 to 5 ms each, and its
pipe to a program that ends without reading raises. What has been started ends by itself, even where the caller is
cancelled; each table changes whole or not at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias

import structlog

from vxland.firewall.backend import BACKENDS, Backend, choose, has_kubelets
from vxland.model.errors import StartError

Flavour: TypeAlias = Literal["iptables", "nftables"]
Family: TypeAlias = Literal[4, 6]
ChainKey: TypeAlias = tuple[str, str]

_IPTABLES: Final = {4: "iptables", 6: "ip6tables"}
_OTHER: Final = {"iptables": "nftables", "nftables": "iptables"}
_TIMEOUT_S: Final = 20.0  # they take milliseconds, or as long as another one holds the lock
_MAX_JSON: Final = 4 << 20  # bytes, of which the event loop makes values in 50 ms
_COMPLAINT: Final = 300  # characters of it that an error shows

# What iptables -S says of a chain that is not there: legacy and late nf_tables versions, and earlier nf_tables ones.
_NO_CHAIN: Final = ("No chain/target/match by that name", "is incompatible, use 'nft' tool")
_BUILT_IN: Final = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_NO_TABLE: Final = "No such file or directory"
_LEGACY_TABLES: Final = tuple(Path(f"/proc/thread-self/net/{name}_tables_names") for name in ("ip", "ip6"))

log = structlog.get_logger()


class FirewallPrograms:
    """The rules of the kernel. Every async method raises StartError, with the program's complaint, where it fails.

    `backend` is the one of iptables that is read and written, "" before the first choose(): the path's iptables then.
    """

    def __init__(self, backend: Backend | Literal[""] = "") -> None:
        self.backend = backend

    async def choose(self) -> bool:
        """Choose the backend by what is in both now; whether it is another one than before. Nothing is raised."""
        saved: dict[Backend, str] = {"nft": await self._saved("nft", "-t", "mangle")}
        if not has_kubelets(saved["nft"]):  # the mangle table is small; all of a node's rules may take a second
            saved = {backend: await self._saved(backend) for backend in BACKENDS}
        own = await self._own()
        chosen, reason = choose(saved, own)
        before, self.backend = self.backend, chosen
        if chosen != (before or own):
            log.info("iptables_backend", backend=chosen, reason=reason)
        return before != chosen

    def other(self) -> Self | None:
        """The rules of the other backend, to be cleared of ours; None where no program reads it."""
        other: Backend = "nft" if self.backend == "legacy" else "legacy"
        if not self.backend or any(shutil.which(f"{name}-{other}-save") is None for name in _IPTABLES.values()):
            return None
        return type(self)(other)

    async def _saved(self, backend: Backend, *options: str) -> str:
        """What a backend has in both families; what cannot be read is not there."""
        if backend == "legacy" and not any(_has_lines(path) for path in _LEGACY_TABLES):
            return ""
        found = ""
        for name in _IPTABLES.values():
            if shutil.which(f"{name}-{backend}-save") is None:
                continue
            try:
                found += await _ask("iptables", f"{name}-{backend}-save", *options)
            except StartError as exc:
                log.debug("iptables_backend_unread", backend=backend, error=str(exc))
        return found

    async def _own(self) -> Backend:
        """The backend of the path's iptables; one that does not say so is older than nf_tables."""
        try:
            return "nft" if "nf_tables" in await _ask("iptables", "iptables", "--version") else "legacy"
        except StartError:
            return "nft"

    def _iptables(self, family: Family) -> str:
        """The program, without -save or -restore; that of the path where the backend has none of its own."""
        name = _IPTABLES[family]
        own = f"{name}-{self.backend}"
        return own if self.backend and shutil.which(own) is not None else name

    def installed(self, flavour: Flavour, family: Family) -> bool:
        """Whether the programs of a flavour are there."""
        name = self._iptables(family)
        programs = ("nft",) if flavour == "nftables" else (name, f"{name}-save", f"{name}-restore")
        return all(shutil.which(program) for program in programs)

    async def chains(self, family: Family, keys: Iterable[ChainKey]) -> Mapping[ChainKey, tuple[str, ...]]:
        """Those of the iptables chains, (table, name), that exist, with their rules; the rest is not even read.

        A node with 5,000 Services has 15,000 rules: iptables-save takes 0.6 s for them, this 2 ms a chain.
        """
        found = {}
        for table, chain in keys:
            done = await _run("iptables", self._iptables(family), "--wait", "-t", table, "-S", chain)
            if done.code == 0:
                found[table, chain] = tuple(line for line in done.output.splitlines() if line.startswith("-A "))
            elif chain in _BUILT_IN or not any(text in done.complaint for text in _NO_CHAIN):
                raise done.failure()  # a built-in chain that cannot be listed is there: nft has put a rule into it
        return found

    async def all_chains(self, family: Family) -> Mapping[ChainKey, tuple[str, ...]]:
        """Every iptables chain of every table in use, with its rules; no table comes into use by it."""
        table, found = "", dict[ChainKey, list[str]]()
        for line in (await _ask("iptables", f"{self._iptables(family)}-save")).splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(":"):
                found[table, line[1:].partition(" ")[0]] = []
            elif line.startswith("-A "):
                found.setdefault((table, line.split(" ", 2)[1]), []).append(line)
        return {key: tuple(lines) for key, lines in found.items()}

    async def restore(self, family: Family, text: str) -> None:
        """Run `iptables-restore --noflush`: each table of `text` changes whole or not at all."""
        await _ask("iptables", f"{self._iptables(family)}-restore", "--noflush", "--wait", stdin=text)

    async def nft_table(self, family: str, name: str) -> str:
        """What nft lists of a table; "" where there is none."""
        done = await _run("nftables", "nft", "list", "table", family, name)
        if done.code == 0:
            return done.output
        if _NO_TABLE in done.complaint:
            return ""
        raise done.failure()

    async def forward_chains(self) -> Sequence[Mapping[str, Any]]:
        """The base chains of nf_tables that forwarded packets pass, as nft -j lists them."""
        chains = [each["chain"] for each in await _nft_json("list", "chains") if "chain" in each]
        return [chain for chain in chains if chain.get("hook") == "forward"]

    async def nft_rules(self, family: str, table: str, chain: str) -> Sequence[Sequence[Mapping[str, Any]]]:
        """The statements of each rule of a chain."""
        found = await _nft_json("list", "chain", family, table, chain)
        return [each["rule"].get("expr", []) for each in found if "rule" in each]

    def legacy_in_use(self, family: Family) -> bool:
        """Whether iptables' legacy filter table is there; listing it must not make it."""
        try:
            return "filter" in _LEGACY_TABLES[family == 6].read_text(encoding="ascii").split()
        except OSError:
            return False

    async def listing(self, family: Family, table: str, chain: str, backend: str) -> Sequence[str]:
        """What iptables -S says of a chain, its policy too; empty where there is none."""
        own = f"{_IPTABLES[family]}-{backend}"
        program = own if shutil.which(own) is not None else _IPTABLES[family]
        done = await _run("iptables", program, "--wait", "-t", table, "-S", chain)
        if done.code != 0 and not any(text in done.complaint for text in _NO_CHAIN):
            raise done.failure()
        return done.output.splitlines()

    async def nft(self, script: str) -> None:
        """Run `nft -f`: all of the script takes effect, or nothing."""
        await _ask("nftables", "nft", "-f", "-", stdin=script)


@dataclass(frozen=True, slots=True)
class _Done:
    """How a program ended."""

    flavour: Flavour
    command: str
    code: int
    output: str
    complaint: str

    def failure(self) -> StartError:
        cause = f"`{self.command}` failed: {self.complaint[:_COMPLAINT] or f'exit code {self.code}'}"
        if os.geteuid() != 0 or "ermission denied" in self.complaint or "not permitted" in self.complaint:
            return StartError(cause, "run as root or grant CAP_NET_ADMIN and CAP_NET_RAW")
        return StartError(cause, f"mend what it complains of, or choose firewall.flavour: {_OTHER[self.flavour]}")


def _has_lines(path: Path) -> bool:
    try:
        return bool(path.read_text(encoding="ascii"))
    except OSError:
        return False


async def _ask(flavour: Flavour, *argv: str, stdin: str = "") -> str:
    done = await _run(flavour, *argv, stdin=stdin)
    if done.code != 0:
        raise done.failure()
    return done.output


async def _nft_json(*words: str) -> list[Mapping[str, Any]]:
    listed = await _ask("nftables", "nft", "-j", *words)
    if len(listed) > _MAX_JSON:
        raise StartError(f"`nft -j {' '.join(words)}` lists {len(listed)} bytes", "look at these rules by hand")
    try:
        found = json.loads(listed)["nftables"]
    except (ValueError, KeyError, TypeError) as exc:
        raise StartError("nft prints no JSON", "install an nft that has it: nft -j list chains") from exc
    return [each for each in found if isinstance(each, dict)]


async def _run(flavour: Flavour, *argv: str, stdin: str = "") -> _Done:
    command = " ".join(argv)
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            argv,
            input=stdin.encode(),
            capture_output=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},  # nft's complaints come translated
            start_new_session=True,  # Ctrl-C is for the daemon
        )
    except FileNotFoundError as exc:
        remedy = f"install the package {flavour}, or choose firewall.flavour: {_OTHER[flavour]}"
        raise StartError(f"{argv[0]} is not installed", remedy) from exc
    except OSError as exc:
        raise StartError(f"{argv[0]} cannot be started: {exc.strerror}", "run it by hand to see why") from exc
    except subprocess.TimeoutExpired as exc:
        cause = f"`{command}` did not end within {_TIMEOUT_S:.0f} s"
        raise StartError(cause, "see who holds the lock: fuser /run/xtables.lock") from exc
    complaint = " ".join(done.stderr.decode(errors="replace").split())
    return _Done(flavour, command, done.returncode, done.stdout.decode(errors="replace"), complaint)
