"""Path MTUs, with a fake kernel and a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from structlog.testing import capture_logs

from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address
from vxland.reconcile.believed_mtu import LEAST, believe
from vxland.reconcile.path_mtu import BATCH, PathMtus

A, B, C = (ip_address(f"192.168.111.{number}") for number in (128, 129, 130))


class FakePaths:
    """The kernel's answers; `asked` has the VTEPs polled since it was last cleared."""

    def __init__(self) -> None:
        self.interfaces: dict[int, tuple[str, int]] = {2: ("e0", 1500)}
        self.to: dict[Address, int] = {}
        self.taught: dict[Address, int] = {}
        self.asked: list[Address] = []

    def interface(self, index: int) -> tuple[str, int] | None:
        """Return the interface; None if it is gone."""
        return self.interfaces.get(index)

    def mtu_to(self, vtep: Address) -> int | None:
        """Return the path MTU; None without a route."""
        self.asked.append(vtep)
        return self.to.get(vtep)

    def learned(self, vtep: Address) -> tuple[int, int | None] | None:
        """Return the path MTU from ICMP, on a route without its own MTU."""
        return (self.taught[vtep], None) if vtep in self.taught else None


class Run:
    """PathMtus in steps of a period; `changes` has the narrower paths at each on_change()."""

    def __init__(self, paths: FakePaths) -> None:
        self.changes: list[tuple[int, dict[Address, int]]] = []
        self._turn = asyncio.Semaphore(0)
        self._slept = asyncio.Event()
        self.follower = PathMtus(paths, Underlay("e0", 2, A, 1500), self._changed, icmp_counts=False, sleep=self._sleep)
        self._paths = paths

    def _changed(self) -> None:
        self.changes.append((self.follower.underlay.mtu, dict(self.follower.narrower)))

    async def _sleep(self, _: float) -> None:
        self._slept.set()
        await self._turn.acquire()

    async def started(self) -> None:
        """Wait for the first poll."""
        await self._slept.wait()

    async def period(self) -> list[Address]:
        """Let a period pass, and return the VTEPs polled."""
        self._paths.asked.clear()
        self._slept.clear()
        self._turn.release()
        await self._slept.wait()
        return list(self._paths.asked)


def stepped(scenario: Callable[[Run, FakePaths], object]) -> None:
    """Run an async scenario while PathMtus polls."""

    async def play() -> None:
        paths = FakePaths()
        run = Run(paths)
        task = asyncio.create_task(run.follower.run())
        try:
            await run.started()
            done = scenario(run, paths)
            assert asyncio.iscoroutine(done)
            await done
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(play())


def test_a_path_gets_narrower_and_wide_again() -> None:
    """Each change is reported once; without a route, the last MTU stays."""

    async def scenario(run: Run, paths: FakePaths) -> None:
        paths.to = {B: 1500, C: 1500}
        run.follower.follow(added=[B, C])
        await run.period()
        run.changes.clear()
        paths.to[B] = 1400
        await run.period()
        await run.period()
        assert run.changes == [(1500, {B: 1400})]
        del paths.to[B]
        await run.period()
        assert run.follower.narrower == {B: 1400}
        paths.to[B] = 1500
        await run.period()
        assert run.changes == [(1500, {B: 1400}), (1500, {})]

    stepped(scenario)


def test_the_interface_is_followed() -> None:
    """A renamed interface was no longer polled, and status showed its old name.

    It is known by its index. If it is gone, nothing changes, and another may have the address. Each change is reported
    once, also if no path has changed.
    """

    async def scenario(run: Run, paths: FakePaths) -> None:
        def now() -> tuple[str, int, int]:
            underlay = run.follower.underlay
            return underlay.interface, underlay.index, underlay.mtu

        paths.interfaces[2] = ("e0", 1400)
        await run.period()
        await run.period()
        assert run.changes == [(1400, {})]
        paths.interfaces = {2: ("ens7", 1400), 3: ("e0", 1500)}
        await run.period()
        assert now() == ("ens7", 2, 1400)
        paths.interfaces[2] = ("ens7", 1300)
        await run.period()
        assert now() == ("ens7", 2, 1300)
        del paths.interfaces[2]
        await run.period()
        assert now() == ("ens7", 2, 1300)
        assert len(run.changes) == 3
        run.follower.move(3)
        await run.period()
        await run.period()
        assert now() == ("e0", 3, 1500)
        paths.interfaces = {9: ("e0", 1500)}  # recreated under the same name
        run.follower.move(9)
        await run.period()
        await run.period()
        assert (now(), len(run.changes)) == (("e0", 9, 1500), 5)

    stepped(scenario)


def test_many_are_asked_about_in_turn() -> None:
    """BATCH in each period, and new ones; all when the interface has changed, or a datagram was too big."""

    async def scenario(run: Run, paths: FakePaths) -> None:
        vteps = [B + i for i in range(2 * BATCH + 10)]
        run.follower.follow(added=vteps)
        assert await run.period() == vteps
        turns = [await run.period() for _ in range(4)]
        assert turns == [vteps[BATCH : 2 * BATCH], vteps[2 * BATCH :], vteps[:BATCH], vteps[BATCH : 2 * BATCH]]
        run.follower.follow(added=[A, B])
        assert await run.period() == [A, *vteps[2 * BATCH :]]
        run.follower.follow(removed=[A, B])
        run.follower.poll_all_soon()
        assert await run.period() == vteps
        paths.interfaces[2] = ("e0", 9000)
        assert await run.period() == vteps

    stepped(scenario)


def test_a_vtep_that_left_is_forgotten() -> None:
    """It is polled no more."""

    async def scenario(run: Run, paths: FakePaths) -> None:
        paths.to = {B: 1400, C: 1300}
        run.follower.follow(added=[B, C, C])
        await run.period()
        assert run.follower.narrower == {B: 1400, C: 1300}
        run.follower.follow(removed=[B, C])
        assert run.follower.narrower == {C: 1300}
        assert await run.period() == [C]

    stepped(scenario)


def test_what_icmp_says_against_reason() -> None:
    """A forged error lowered the path MTU to 576 bytes for ten minutes; it is logged, and changes nothing."""

    async def scenario(run: Run, paths: FakePaths) -> None:
        paths.to = {B: 1500, C: 1400}
        run.follower.follow(added=[B, C])
        await run.period()
        assert {vtep: path.mtu for vtep, path in run.follower.known.items()} == {B: 1500, C: 1400}
        assert run.follower.known[C].source == "route"
        paths.to[B] = paths.taught[B] = 552
        with capture_logs() as logs:
            await run.period()
        assert (run.follower.known[B].mtu, run.follower.distrusted) == (1500, {B: 552})
        assert [(each["event"], each["claimed"]) for each in logs] == [("path_mtu_disbelieved", 552)]
        assert run.changes[-1] == (1500, {C: 1400})
        paths.to[B], paths.taught = 1500, {}
        await run.period()
        assert run.follower.distrusted == {}

    stepped(scenario)


def test_forgers_do_not_fill_the_log() -> None:
    """Each lower claim is new to the kernel; the log has twenty events a minute."""

    async def scenario(run: Run, paths: FakePaths) -> None:
        paths.to = {B: 1500}
        run.follower.follow(added=[B])
        with capture_logs() as logs:
            for claimed in range(1499, 1399, -1):
                paths.to[B] = paths.taught[B] = claimed
                await run.period()
        assert len(logs) <= 40

    stepped(scenario)


@pytest.mark.parametrize(
    ("mtu", "learned", "icmp_counts", "believed"),
    [
        (1500, None, False, (1500, "interface", None)),
        (1400, None, False, (1400, "route", None)),
        (552, (552, None), False, (1500, "interface", 552)),
        (552, (552, 1400), False, (1400, "route", 552)),
        (498, (552, None), False, (1446, "route", 552)),  # IPsec takes 54
        (1400, (1400, None), True, (1400, "icmp", None)),
        (1280, (1280, None), True, (1280, "icmp", None)),
        (552, (552, None), True, (LEAST, "icmp", 552)),
        (552, (552, 1000), True, (1000, "route", 552)),
    ],
)
def test_what_to_believe(
    mtu: int, learned: tuple[int, int | None] | None, icmp_counts: bool, believed: tuple[int, str, int | None]
) -> None:
    """Routes and interfaces always; ICMP if it can be true, and never below every link's minimum."""
    path = believe(mtu, 1500, learned, icmp_counts=icmp_counts)
    assert (path.mtu, path.source, path.claimed) == believed
