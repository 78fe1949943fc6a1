"""The Reconciler against a fake kernel under a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from structlog.testing import capture_logs

from tests.kernel import DEV, FRESH, Clock, FakeKernel, idle, lease, ours, plan, route, set_want, settle, want
from vxland.model.actions import Action, ReplaceRoute
from vxland.model.errors import VxlandError
from vxland.model.kernel_state import Have, Neighbour
from vxland.model.lease import Mac
from vxland.model.log_quota import ROUTINE
from vxland.reconcile.reconciler import DEBOUNCE_S, DEVICE_S, RESYNC_S, Reconciler

PEER, PEER6 = lease("10.244.1.0/24"), lease("fd00:244:1::/64")
WANT = want(PEER, PEER6)
SETTLED = settle(WANT, Have(link=FRESH))
ROUTE = ours(PEER.subnet)


def link(**changes: object) -> Have:
    """Return the settled state with another link."""
    assert SETTLED.link is not None
    return replace(SETTLED, link=replace(SETTLED.link, **changes))  # type: ignore[arg-type]  # any field


@asynccontextmanager
async def running(kernel: FakeKernel, clock: Clock) -> AsyncIterator[Reconciler]:
    """Run a Reconciler, and cancel it at the end."""
    reconciler = Reconciler(kernel, clock=lambda: clock.now, sleep=clock.sleep, jitter=lambda: 0.0)
    task = asyncio.create_task(reconciler.run())
    await idle()
    yield reconciler
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_nothing_happens_before_the_first_want_then_all_at_once() -> None:
    """An unread registry is not an empty one."""
    kernel, clock = FakeKernel(), Clock()
    async with running(kernel, clock) as reconciler:
        kernel.changed.set()
        await clock.pass_time(2 * RESYNC_S)
        assert (kernel.calls, await reconciler.preview()) == ([], [])
        await set_want(reconciler, WANT)
        assert len(await reconciler.preview()) == 9
        await idle()
        assert plan(WANT, kernel.have) == []
        assert reconciler.counters.repaired["replace_route", "lease"] == 2
        assert reconciler.counters.pending == 0


async def test_a_new_lease_on_a_settled_kernel_is_applied_before_the_next_read() -> None:
    """With 5,000 leases each change read all routes and neighbours twice: 319 ms of CPU time."""
    kernel, clock = FakeKernel(), Clock()
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await idle()
        kernel.calls.clear()
        reads = kernel.reads, kernel.device_reads
        await set_want(reconciler, want(PEER, lease("fd00:244:1::/64", 4), lease("10.244.2.0/24", 6)))
        await idle()
        assert [sorted(str(action) for action in batch) for batch in kernel.calls] == [
            [
                "ip neigh replace 10.244.2.0 lladdr 00:00:00:00:00:06 dev flannel.1 nud permanent",
                "ip neigh replace fd00:244:1:: lladdr 00:00:00:00:00:04 dev flannel.1 nud permanent",
                "ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
            ]
        ]
        await set_want(reconciler, WANT)
        await idle()
        assert len(kernel.calls) == 2
        assert (kernel.reads, kernel.device_reads) == reads == (1, 4)
        assert (reconciler.counters.reads, plan(WANT, kernel.have)) == (1, [])


async def test_a_change_without_an_event_is_found_by_the_resync() -> None:
    """Or by what it undoes: a repair that changes nothing makes no event, so everything is read."""
    kernel, clock = FakeKernel(), Clock()
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await idle()
        kernel.have = replace(kernel.have, routes=(), neighbours=())
        await clock.pass_time(RESYNC_S - 1)
        assert kernel.have.routes == ()
        await clock.pass_time(1)
        assert plan(WANT, kernel.have) == []
        wanted = want(PEER, PEER6, lease("10.244.2.0/24"))
        kernel.have = replace(settle(wanted, kernel.have), routes=())
        await set_want(reconciler, wanted)
        await idle()
        assert plan(wanted, kernel.have) == []
        assert reconciler.counters.repaired["replace_route", "lease"] == 2 + 1 + 2


async def test_lost_events_are_made_good_by_a_full_read() -> None:
    """ENOBUFS: what was lost may be anything."""
    kernel, clock = FakeKernel(), Clock()
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await idle()
        kernel.have = replace(kernel.have, routes=(), neighbours=())
        kernel.lose_events()
        await clock.pass_time(DEBOUNCE_S)
        assert plan(WANT, kernel.have) == []
        assert kernel.reads == 2


async def test_drift_is_repaired_from_its_events_alone() -> None:
    """Nothing is read for routes and neighbours that others delete, change or add."""
    kernel, clock = FakeKernel(), Clock()
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await idle()
        stale, theirs = ours(ip_network("10.244.9.0/24")), route("10.244.1.0/24")
        other = Neighbour(PEER.subnet.network_address, Mac(8), permanent=True)
        for have in (
            replace(kernel.have, routes=()),
            replace(kernel.have, routes=(*kernel.have.routes, stale)),
            replace(kernel.have, routes=(theirs, *(r for r in kernel.have.routes if r != ROUTE))),
            replace(kernel.have, neighbours=()),
            replace(kernel.have, neighbours=(other, *kernel.have.neighbours[1:])),
            replace(kernel.have, neighbours=(replace(kernel.have.neighbours[0], permanent=False),)),
        ):
            kernel.drift(have)
            await clock.pass_time(DEBOUNCE_S)
            assert plan(WANT, kernel.have) == []
        assert kernel.reads == 1
        kernel.drift(replace(kernel.have, routes=(theirs, *kernel.have.routes)))  # prepended, or appended?
        await clock.pass_time(DEBOUNCE_S)
        assert (plan(WANT, kernel.have), kernel.reads) == ([], 2)


async def test_direct_routes_need_one_lookup_for_each_new_vtep() -> None:
    """All are looked up again only when routes to nodes may have changed."""
    kernel, clock = FakeKernel(), Clock()
    near, far = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    kernel.have = replace(kernel.have, on_link={near: "eth0", far: "eth0"})
    new = lease("10.244.2.0/24", 4, str(far))
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, replace(want(PEER), direct=True))
        await idle()
        await set_want(reconciler, wanted := replace(want(PEER, new), direct=True))
        await idle()
        assert kernel.looked_up == [{near}, {far}]
        assert (plan(wanted, kernel.have), set(reconciler.on_link)) == ([], {near, far})
        kernel.drift(replace(kernel.have, on_link={near: "eth0"}))
        await clock.pass_time(DEBOUNCE_S)
        assert kernel.looked_up[2:] == [{near, far}]
        assert (plan(wanted, kernel.have), set(reconciler.on_link)) == ([], {near})
        await set_want(reconciler, replace(want(new), direct=True))
        await idle()
        assert set(reconciler.on_link) == set()
        assert (kernel.reads, len(kernel.looked_up)) == (1, 3)


async def test_drift_is_repaired_after_one_debounce() -> None:
    """A burst of events makes one pass."""
    kernel, clock = FakeKernel(), Clock()
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await idle()
        passes = reconciler.counters.passes
        for _ in range(3):
            kernel.drift(replace(kernel.have, routes=()))
            await idle()
        assert kernel.have.routes == ()
        await clock.pass_time(DEBOUNCE_S)
        assert plan(WANT, kernel.have) == []
        assert reconciler.counters.passes == passes + 1
        assert reconciler.counters.repaired["replace_route", "netlink"] == 2


async def test_a_device_that_cannot_carry_frames_is_reported() -> None:
    """It is down and stays so, missing, or another program's; the problem is empty once it is well."""
    kernel, clock = FakeKernel(), Clock()
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await idle()
        assert reconciler.link_problem == ""
        kernel.refuse = lambda action: action.verb == "set_up"
        for have, problem in (
            (link(up=False), "flannel.1 is down"),
            (Have(), "flannel.1 is missing"),
            (Have(link=replace(FRESH, kind="vxlan")), "flannel.1 is a vxlan, and no TAP of ours"),
            (SETTLED, ""),
        ):
            kernel.drift(have)
            await clock.pass_time(DEBOUNCE_S)
            assert reconciler.link_problem == problem


async def test_a_drift_of_the_device_without_event_is_found_within_half_a_minute() -> None:
    """accept_ra, for one; routes and neighbours are not read for it."""
    kernel, clock = FakeKernel(), Clock()
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await idle()
        kernel.have = link(accept_ra=1)
        await clock.pass_time(DEVICE_S - 1)
        assert plan(WANT, kernel.have) != []
        await clock.pass_time(1)
        assert plan(WANT, kernel.have) == []
        assert (reconciler.counters.repaired["set_accept_ra", "resync"], kernel.reads) == (1, 1)


async def test_one_peers_failure_delays_no_other_and_backs_off() -> None:
    """The refused route is retried after 0.1, 0.2, 0.4 s and so on; all else is done at once."""
    kernel, clock = FakeKernel(), Clock()
    bad = ReplaceRoute(DEV, PEER.subnet)
    kernel.refuse = lambda action: action == bad
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await idle()
        assert plan(WANT, kernel.have) == [bad]
        assert reconciler.counters.pending == 1
        for tries, pause_s in enumerate((0.1, 0.2, 0.4, 0.8), start=1):
            assert reconciler.counters.failed["replace_route"] == tries
            await clock.pass_time(pause_s * 0.99)
            assert reconciler.counters.failed["replace_route"] == tries
            await clock.pass_time(pause_s * 0.01 + 1e-6)
        await set_want(reconciler, want(PEER, PEER6, lease("10.244.2.0/24")))
        await idle()
        assert ours(ip_network("10.244.2.0/24")) in kernel.have.routes
        assert reconciler.counters.failed["replace_route"] == 5
        kernel.refuse = lambda _: False
        await clock.pass_time(1.6)
        assert ROUTE in kernel.have.routes
        assert reconciler.counters.repaired["replace_route", "retry"] == 1


async def test_an_unreadable_kernel_is_read_again() -> None:
    """A failed read plans nothing, and is retried."""
    kernel, clock = FakeKernel(), Clock()
    kernel.unreadable = True
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await clock.pass_time(0.2)
        assert (kernel.calls, reconciler.counters.failed_reads) == ([], 2)
        kernel.unreadable = False
        await clock.pass_time(0.2)
        assert plan(WANT, kernel.have) == []


async def test_an_unreadable_kernel_is_not_read_at_full_speed() -> None:
    """An action failed before, and its retry time has passed; still the next read waits."""
    kernel, clock = FakeKernel(), Clock()
    kernel.refuse = lambda _: True
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await idle()
        kernel.unreadable = True
        await clock.pass_time(10.0)
        assert 0 < reconciler.counters.failed_reads < 12
        kernel.refuse, kernel.unreadable = (lambda _: False), False
        await clock.pass_time(30.0)
        assert plan(WANT, kernel.have) == []


async def test_no_fight_at_full_speed() -> None:
    """An action that another program undoes at once is retried with a backoff, not in a loop."""
    kernel, clock = FakeKernel(), Clock()
    kernel.have = link(mtu=1500)

    async def apply(actions: Sequence[Action]) -> dict[Action, VxlandError]:
        kernel.calls.append(list(actions))
        kernel.changed.set()
        return {}

    kernel.apply = apply  # type: ignore[method-assign]  # the fake of this test
    async with running(kernel, clock) as reconciler:
        await set_want(reconciler, WANT)
        await clock.pass_time(1.0)
        assert 3 <= len(kernel.calls) <= 5


async def test_repairs_undone_again_and_again_are_logged() -> None:
    """The alert about a fight for the routes refers to `action_undone`, which was never logged."""
    kernel, clock = FakeKernel(), Clock()
    with capture_logs() as logged:
        async with running(kernel, clock) as reconciler:
            await set_want(reconciler, WANT)
            await idle()
            logged.clear()
            for _ in range(4):
                kernel.drift(replace(kernel.have, routes=tuple(r for r in kernel.have.routes if r != ROUTE)))
                await clock.pass_time(5.0)
                assert ROUTE in kernel.have.routes
    undone = [event for event in logged if event["event"] == "action_undone"]
    assert [event["tries"] for event in undone] == [1, 2, 3]
    assert {(event["action"], event["subnet"]) for event in undone} == {("replace_route", str(PEER.subnet))}


async def test_a_lease_that_flaps_does_not_fill_the_log() -> None:
    """730 changes a second wrote 60 kB of `drift_repaired`, although no program undoes anything."""
    kernel, clock = FakeKernel(), Clock()
    with capture_logs() as logged:
        async with running(kernel, clock) as reconciler:
            for turn in range(400):
                await set_want(reconciler, WANT if turn % 2 else want(PEER, PEER6, lease("10.244.2.0/24")))
                await clock.pass_time(0.01)
    assert len(logged) <= ROUTINE + 20
    assert {event["event"] for event in logged} == {"drift_repaired", "more_drift_repaired", "log_lines_left_out"}
