"""The rules of rules.py in force: applied at start, checked every few seconds, restored if they are gone.

Each failure is logged once per reason and retried with the next check; forwarding goes on without the rules. The rules
stay when the daemon ends, as flanneld's do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import structlog

from vxland.firewall import rules
from vxland.firewall.nft_listing import NftTable, Shape
from vxland.firewall.resync import Resync
from vxland.firewall.rules import FAMILIES, FLAVOURS, NOTHING, ChainKey, Chains, Family, Flavour, RulesWant
from vxland.model.errors import VxlandError

log = structlog.get_logger()


CHOOSE_EVERY = 12
"""Checks between two choices of iptables' backend: kubelet may start later than vxland."""


class RuleInstaller(Protocol):
    """Access to the kernel's rules; firewall/programs.py has it. The async methods may raise VxlandError."""

    @property
    def backend(self) -> str:
        """Backend of iptables that is read and written: nft or legacy; empty before the first choose()."""
        ...

    async def choose(self) -> bool:
        """Choose the backend by the rules in both; return whether it differs from the one before."""
        ...

    def other(self) -> Self | None:
        """Return the other backend; None if no program reads it."""
        ...

    def installed(self, flavour: Flavour, family: Family) -> bool:
        """Return whether the programs of a flavour are installed."""
        ...

    async def chains(self, family: Family, keys: Sequence[ChainKey]) -> Chains:
        """Return the rules of those iptables chains that exist; no other chain is read."""
        ...

    async def all_chains(self, family: Family) -> Chains:
        """Return the rules of every iptables chain, without loading a table that is not in use."""
        ...

    async def restore(self, family: Family, text: str) -> None:
        """Run `iptables-restore --noflush`."""
        ...

    async def nft_table(self, family: str, name: str) -> NftTable | None:
        """Return a table of nf_tables; None if it does not exist."""
        ...

    async def nft(self, script: str) -> None:
        """Run `nft -f`."""
        ...


@dataclass(slots=True)
class SyncCounters:
    """Counts since start: checks, and by IP version how often rules were restored, or could not be applied."""

    checks: int = 0
    restored: Counter[Family] = field(default_factory=Counter)
    failed: Counter[Family] = field(default_factory=Counter)

    def by_name(self) -> dict[str, tuple[int, int]]:
        """Return `restored` and `failed` of each family, by its name."""
        return {f"ipv{family}": (self.restored[family], self.failed[family]) for family in FAMILIES}


@dataclass(slots=True, eq=False)
class _Goal:
    """The wanted rules, and how far they are in force."""

    want: RulesWant
    flavour: Flavour
    other_cleaned: bool = False
    reached: set[Family] = field(default_factory=set)
    errors: dict[Family | None, str] = field(default_factory=dict)
    """The last failure by IP version; None: removal of the other flavour, without which the wanted rules still work."""
    shown: dict[Family, object] = field(default_factory=dict)
    """Our rules as these versions of the tools list them, if that differs from how they were written."""


class FirewallSync:
    """Maintains the rules that set_want() set last; before that it changes nothing."""

    def __init__(self, firewall: RuleInstaller, resync_s: float) -> None:
        self.counters = SyncCounters()
        self._firewall = firewall
        self._goal: _Goal | None = None
        self._resync = Resync(self._apply, resync_s)

    @property
    def error(self) -> str:
        """The reason why wanted rules may not be in force; empty while they are."""
        errors = {} if self._goal is None else self._goal.errors
        return "; ".join(dict.fromkeys(text for family, text in errors.items() if family is not None))

    @property
    def backend(self) -> str:
        """The backend of iptables that has the rules: nft or legacy; empty if iptables is not used."""
        return self._firewall.backend if self._goal is not None and self._goal.flavour == "iptables" else ""

    def set_want(self, want: RulesWant | None, flavour: Flavour = "iptables") -> None:
        """Replace the wanted rules; a RulesWant without any removes all rules, None leaves existing ones alone."""
        self._goal = None if want is None else _Goal(want, flavour)
        self._resync.notify()

    async def settle(self) -> bool:
        """Apply the wanted rules now; return whether that worked. A failure is logged, and run() retries."""
        await self._resync.apply()
        return not self.error

    async def run(self) -> None:
        """Apply after each change and check every `resync_s` seconds, until cancelled."""
        await self._resync.run()

    async def remove(self) -> bool:
        """Remove the rules of both flavours, flanneld's too; return whether there were any.

        VxlandError: some could not be removed; the others are.
        """
        found, failure = False, None
        async with self._resync.lock:
            await self._firewall.choose()
            for flavour in FLAVOURS:
                for family in FAMILIES:
                    try:
                        found |= await self._clear(flavour, family)
                        found |= flavour == "iptables" and await self._clear_other_backend(family)
                    except VxlandError as exc:
                        failure = failure or exc
        if failure is not None:
            raise failure
        return found

    async def _apply(self) -> None:
        if (goal := self._goal) is None:
            return
        if self.counters.checks % CHOOSE_EVERY == 0:
            await self._choose(goal)
        self.counters.checks += 1
        if not goal.other_cleaned:
            await self._clean_other_flavour(goal)
        for family in FAMILIES:
            await self._reach(goal, family)

    async def _choose(self, goal: _Goal) -> None:
        """Choose the backend of iptables; if it is another one, start over there."""
        if goal.flavour != "iptables" and goal.other_cleaned:
            return
        if await self._firewall.choose():
            goal.other_cleaned = False
            goal.reached.clear()
            goal.shown.clear()

    async def _clean_other_flavour(self, goal: _Goal) -> None:
        flavour: Flavour = "iptables" if goal.flavour == "nftables" else "nftables"
        try:
            for family in FAMILIES:
                if await self._clear(flavour, family):
                    log.info("firewall_cleaned", flavour=flavour, family=family)
                if await self._clear_other_backend(family):
                    log.info("firewall_cleaned", flavour="iptables", family=family)
        except VxlandError as exc:
            self._note(goal, None, exc)
        else:
            goal.other_cleaned = True

    async def _clear_other_backend(self, family: Family) -> bool:
        """Remove our rules from iptables' other backend; return whether there were any."""
        other = self._firewall.other()
        if other is None:
            return False
        try:
            return await self._clear("iptables", family, other)
        except VxlandError as exc:  # mostly a kernel without it
            log.debug("firewall_not_swept", family=family, error=str(exc))
            return False

    async def _clear(self, flavour: Flavour, family: Family, firewall: RuleInstaller | None = None) -> bool:
        """Remove the rules of a flavour; return whether there were any. Without its programs there are none."""
        firewall = firewall or self._firewall
        if not firewall.installed(flavour, family):
            return False
        if flavour == "iptables":
            if text := rules.restore_text(NOTHING, family, await firewall.all_chains(family)):
                await firewall.restore(family, text)
            return bool(text)
        if found := await firewall.nft_table(*rules.nft_table(family)) is not None:
            await firewall.nft(rules.nft_script(family, ""))
        return found

    async def _reach(self, goal: _Goal, family: Family) -> None:
        repair = self._repair_iptables if goal.flavour == "iptables" else self._repair_nftables
        wanted = bool(rules.iptables_rules(goal.want, family))
        again = family in goal.reached
        if not wanted and (again or not self._firewall.installed(goal.flavour, family)):
            return
        try:
            changed = await self._with_fallback(repair, goal, family)
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
            self.counters.restored[family] += 1
            log.info("firewall_repaired", flavour=goal.flavour, family=family)
        elif changed:
            log.info("firewall_set", flavour=goal.flavour, family=family)

    async def _with_fallback(
        self, repair: Callable[[_Goal, Family], Awaitable[bool]], goal: _Goal, family: Family
    ) -> bool:
        """Repair the rules, without random ports if only that works: iptables before 1.6.2 has none."""
        try:
            return await repair(goal, family)
        except VxlandError as exc:
            if not (goal.want.masquerade and goal.want.fully_random):
                raise
            full, goal.want = goal.want, replace(goal.want, fully_random=False)
            try:
                changed = await repair(goal, family)
            except VxlandError:
                goal.want = full
                raise exc from None
            log.warning("fully_random_off", error=str(exc))
            return changed

    async def _repair_iptables(self, goal: _Goal, family: Family) -> bool:
        firewall, want = self._firewall, goal.want
        wanted = rules.iptables_rules(want, family)
        # The first time, rules that are no longer wanted are read too; iptables-save omits a table with rules of nft's.
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

    async def _repair_nftables(self, goal: _Goal, family: Family) -> bool:
        wanted = rules.nft_shape(goal.want, family)
        if not wanted:
            return await self._clear("nftables", family)
        if await self._shape(family) in {wanted, goal.shown.get(family)}:
            return False
        await self._firewall.nft(rules.nft_script(family, rules.nft_text(goal.want, family)))
        after = await self._shape(family)
        if len(after) == len(wanted):
            goal.shown[family] = after
        return True

    async def _shape(self, family: Family) -> Shape:
        table = await self._firewall.nft_table(*rules.nft_table(family))
        return () if table is None else table.shape

    def _note(self, goal: _Goal, family: Family | None, error: VxlandError) -> None:
        if goal.errors.get(family) != str(error):
            log.warning(
                "firewall_not_cleaned" if family is None else "firewall_failed",
                flavour=goal.flavour,
                family=family,
                error=str(error),
                retry_s=self._resync.period_s,
            )
        goal.errors[family] = str(error)


def _sizes(chains: Chains) -> dict[ChainKey, int]:
    return {key: len(found) for key, found in chains.items()}
