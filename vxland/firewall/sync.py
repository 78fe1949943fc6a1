"""Keeps the rules of rules.py in force: applied at start, looked at every few seconds, put back where they are gone.

A failure is told once per reason and tried again at the next look; forwarding goes on without the rules. They stay
when the daemon ends, as flanneld's do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import structlog

from vxland.firewall import rules
from vxland.firewall.rules import FAMILIES, FLAVOURS, NOTHING, ChainKey, Chains, Family, Flavour, RulesWant
from vxland.model.errors import VxlandError

log = structlog.get_logger()


CHOOSE_LOOKS = 12
"""The backend of iptables is chosen at every so many looks: kubelet may come later than vxland."""


class RuleInstaller(Protocol):
    """What keeping the rules needs; firewall/programs.py has it. The async methods may raise VxlandError."""

    @property
    def backend(self) -> str:
        """The backend that is read and written: nft or legacy; empty before the first choose()."""
        ...

    async def choose(self) -> bool:
        """Choose the backend by what is in both now; whether it is another one than before."""
        ...

    def other(self) -> Self | None:
        """The rules of the other backend; None where no program reads it."""
        ...

    def installed(self, flavour: Flavour, family: Family) -> bool:
        """Whether the programs of a flavour are there."""
        ...

    async def chains(self, family: Family, keys: Sequence[ChainKey]) -> Chains:
        """Those of the iptables chains that exist; cheap however many other chains there are."""
        ...

    async def all_chains(self, family: Family) -> Chains:
        """Every iptables chain of every table in use; no table comes into use by it."""
        ...

    async def restore(self, family: Family, text: str) -> None:
        """Run `iptables-restore --noflush`."""
        ...

    async def nft_table(self, family: str, name: str) -> str:
        """What nft lists of a table; "" where there is none."""
        ...

    async def nft(self, script: str) -> None:
        """Run `nft -f`."""
        ...


@dataclass(slots=True)
class SyncCounters:
    """Since start: looks taken; by IP version, how often rules were put back after they had been right, or failed."""

    looks: int = 0
    mended: Counter[Family] = field(default_factory=Counter)
    failed: Counter[Family] = field(default_factory=Counter)

    def by_name(self) -> dict[str, tuple[int, int]]:
        """`mended` and `failed` by the families' names, all of them."""
        return {f"ipv{family}": (self.mended[family], self.failed[family]) for family in FAMILIES}


@dataclass(slots=True, eq=False)
class _Goal:
    """What is wanted, and how far it has been reached."""

    want: RulesWant
    flavour: Flavour
    other_cleaned: bool = False
    reached: set[Family] = field(default_factory=set)
    errors: dict[Family | None, str] = field(default_factory=dict)
    """What failed last, by IP version; None is the other flavour's removal, which keeps no wanted rule away."""
    shown: dict[Family, object] = field(default_factory=dict)
    """How these versions of the tools list our rules, where it is not quite as they were written."""


class FirewallSync:
    """Keeps what set_want() asked for last; before that nothing is touched."""

    def __init__(self, firewall: RuleInstaller, resync_s: float) -> None:
        self.counters = SyncCounters()
        self._firewall = firewall
        self._resync_s = resync_s
        self._goal: _Goal | None = None
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def error(self) -> str:
        """Why wanted rules may not be in force; empty while they are."""
        errors = {} if self._goal is None else self._goal.errors
        return "; ".join(dict.fromkeys(text for family, text in errors.items() if family is not None))

    @property
    def backend(self) -> str:
        """The backend of iptables that has the rules: nft or legacy; empty where iptables is not used."""
        return self._firewall.backend if self._goal is not None and self._goal.flavour == "iptables" else ""

    def set_want(self, want: RulesWant | None, flavour: Flavour = "iptables") -> None:
        """Replace what is wanted; RulesWant with nothing in it removes all rules, None leaves whatever is there."""
        self._goal = None if want is None else _Goal(want, flavour)
        self._changed.set()

    async def settle(self) -> bool:
        """Bring about what is wanted, now; whether it worked. The log has told why not, and run() goes on trying."""
        async with self._turn:
            self._changed.clear()
            if (goal := self._goal) is not None:
                if self.counters.looks % CHOOSE_LOOKS == 0:
                    await self._choose(goal)
                self.counters.looks += 1
                if not goal.other_cleaned:
                    await self._clean_other(goal)
                for family in FAMILIES:
                    await self._reach(goal, family)
        return not self.error

    async def run(self) -> None:
        """Look again after each `resync_s` seconds, and at once where something else is wanted, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._resync_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            await self.settle()

    async def remove(self) -> bool:
        """Remove the rules of both flavours, whoever made them; whether there were any. VxlandError of what failed."""
        found, failure = False, None
        async with self._turn:
            await self._firewall.choose()
            for flavour in FLAVOURS:
                for family in FAMILIES:
                    try:
                        found |= await self._clear(flavour, family)
                        found |= flavour == "iptables" and await self._clear_other(family)
                    except VxlandError as exc:  # the others go all the same
                        failure = failure or exc
        if failure is not None:
            raise failure
        return found

    async def _choose(self, goal: _Goal) -> None:
        """Choose the backend of iptables; where it is another one, begin anew there."""
        if goal.flavour != "iptables" and goal.other_cleaned:
            return
        if await self._firewall.choose():
            goal.other_cleaned = False
            goal.reached.clear()
            goal.shown.clear()

    async def _clean_other(self, goal: _Goal) -> None:
        flavour: Flavour = "iptables" if goal.flavour == "nftables" else "nftables"
        try:
            for family in FAMILIES:
                if await self._clear(flavour, family):
                    log.info("firewall_cleaned", flavour=flavour, family=family)
                if await self._clear_other(family):
                    log.info("firewall_cleaned", flavour="iptables", family=family)
        except VxlandError as exc:
            self._note(goal, None, exc)
        else:
            goal.other_cleaned = True

    async def _clear_other(self, family: Family) -> bool:
        """Remove the rules that iptables' other backend has of ours; whether there were any."""
        other = self._firewall.other()
        if other is None:
            return False
        try:
            return await self._clear("iptables", family, other)
        except VxlandError as exc:  # mostly a kernel without it
            log.debug("firewall_not_swept", family=family, error=str(exc))
            return False

    async def _clear(self, flavour: Flavour, family: Family, firewall: RuleInstaller | None = None) -> bool:
        """Remove the rules of a flavour; whether there were any. No program, no rules: that is not an error."""
        firewall = firewall or self._firewall
        if not firewall.installed(flavour, family):
            return False
        if flavour == "iptables":
            if text := rules.restore_text(NOTHING, family, await firewall.all_chains(family)):
                await firewall.restore(family, text)
            return bool(text)
        if found := await firewall.nft_table(*rules.nft_table(family)):
            await firewall.nft(rules.nft_script(family, ""))
        return bool(found)

    async def _reach(self, goal: _Goal, family: Family) -> None:
        mend = self._mend_iptables if goal.flavour == "iptables" else self._mend_nftables
        wanted = bool(rules.iptables_rules(goal.want, family))
        again = family in goal.reached
        if not wanted and (again or not self._firewall.installed(goal.flavour, family)):
            return
        try:
            changed = await self._with_fallback(mend, goal, family)
        except VxlandError as exc:
            if wanted:
                self.counters.failed[family] += 1
                self._note(goal, family, exc)
                return
            log.debug("firewall_not_swept", family=family, error=str(exc))  # perhaps a kernel without this family
            changed = False
        goal.reached.add(family)
        goal.errors.pop(family, None)
        if changed and again:
            self.counters.mended[family] += 1
            log.info("firewall_mended", flavour=goal.flavour, family=family)
        elif changed:
            log.info("firewall_set", flavour=goal.flavour, family=family)

    async def _with_fallback(
        self, mend: Callable[[_Goal, Family], Awaitable[bool]], goal: _Goal, family: Family
    ) -> bool:
        """Mend; where that fails and works without random ports, stay without: iptables before 1.6.2 has none."""
        try:
            return await mend(goal, family)
        except VxlandError as exc:
            if not (goal.want.masquerade and goal.want.fully_random):
                raise
            full, goal.want = goal.want, replace(goal.want, fully_random=False)
            try:
                changed = await mend(goal, family)
            except VxlandError:
                goal.want = full
                raise exc from None
            log.warning("fully_random_off", error=str(exc))
            return changed

    async def _mend_iptables(self, goal: _Goal, family: Family) -> bool:
        firewall, want = self._firewall, goal.want
        wanted = rules.iptables_rules(want, family)
        # At first all that is no longer wanted is looked for too; iptables-save leaves out a table with rules of nft's.
        others = {} if family in goal.reached else await firewall.all_chains(family)
        have = {**others, **await firewall.chains(family, tuple(wanted))}
        text = rules.restore_text(want, family, have)
        if not text or rules.ours(have) == goal.shown.get(family):
            return False
        await firewall.restore(family, text)
        after = rules.ours(await firewall.chains(family, tuple(wanted)))
        if _sizes(after) == _sizes(wanted):
            goal.shown[family] = after
        return True

    async def _mend_nftables(self, goal: _Goal, family: Family) -> bool:
        firewall, text = self._firewall, rules.nft_text(goal.want, family)
        if not text:
            return await self._clear("nftables", family)
        table = rules.nft_table(family)
        have = rules.nft_rules(await firewall.nft_table(*table))
        if have in {rules.nft_rules(text), goal.shown.get(family)}:
            return False
        await firewall.nft(rules.nft_script(family, text))
        after = rules.nft_rules(await firewall.nft_table(*table))
        if len(after) == len(rules.nft_rules(text)):
            goal.shown[family] = after
        return True

    def _note(self, goal: _Goal, family: Family | None, error: VxlandError) -> None:
        if goal.errors.get(family) != str(error):
            log.warning(
                "firewall_not_cleaned" if family is None else "firewall_failed",
                flavour=goal.flavour,
                family=family,
                error=str(error),
                retry_s=self._resync_s,
            )
        goal.errors[family] = str(error)


def _sizes(chains: Chains) -> dict[ChainKey, int]:
    return {key: len(found) for key, found in chains.items()}
