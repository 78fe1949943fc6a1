"""Three nodes in a bad world, against a model of what must come of it: hypothesis chooses what happens.

    pods - TAP  pump, table, Reconciler over tests/kernel.py   --- Fabric ---   the same of two more nodes

The pumps are real, over UDP on loopback; the fabric stands between them and loses, repeats, holds back and damages what
crosses. A registry is followed late or not at all, nodes restart with another MAC, the kernels' state is disturbed, and
the clock jumps. A pod's frame takes the way that the modelled kernel has for it: no route, no frame.

With --hypothesis-profile=chance, VXLAND_EXAMPLES=N tries N random histories instead of the 25 fixed ones.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.fabric import ELSEWHERE, HERE, THERE, Node, free_port
from tests.frames import IPV4, UDP, ethernet, ipv4, udp
from tests.kernel import DEV, NETWORKS, Clock, FakeKernel, idle, plan, set_want
from tests.patience import PATIENCE_S
from vxland.datapath.table import Table, table_of
from vxland.model.backoff import RETRY_LAST_S
from vxland.model.kernel_state import Have
from vxland.model.lease import Lease, Mac, Vtep
from vxland.reconcile.plan import Want
from vxland.reconcile.reconciler import RESYNC_S, Reconciler

ADDRESSES = (HERE, THERE, ELSEWHERE)
WHO = st.integers(0, len(ADDRESSES) - 1)
EXAMPLES = int(os.environ.get("VXLAND_EXAMPLES", "25"))
MARK = b"vxland:"

pytestmark = pytest.mark.slow(reason="histories of a cluster, of 30 steps each")


def subnet_of(number: int) -> str:
    """The subnet of a node, for as long as it lives."""
    return f"10.244.{number + 1}.0/24"


def pod_of(number: int) -> str:
    """The pod of a node."""
    return f"10.244.{number + 1}.5"


class Member:
    """One node: what it believes of the others, its data path, its kernel and who keeps that."""

    def __init__(self, number: int, ports: tuple[int, int], loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self.heard_on, self.sent_to = ports
        self.kernel = FakeKernel()
        self.clock = Clock()
        self.generation = 0
        self.view: frozenset[Lease] = frozenset()
        self.node = Node(ADDRESSES[number], self.heard_on, self.mac, self.table(), 1, offload=False)
        self.forwarded = 0
        self.start(loop)

    @property
    def mac(self) -> int:
        """The VTEP MAC; each restart makes another."""
        return 0x02_00_00_00_00_00 + self.generation * 256 + self.number + 1

    @property
    def lease(self) -> Lease:
        """Its published lease."""
        return Lease(ip_network(subnet_of(self.number)), Vtep(ip_address(ADDRESSES[self.number]), Mac(self.mac)))

    def table(self) -> Table:
        """Its table; VTEPs are reached through the fabric's port."""
        return table_of(self.view, self.sent_to)

    def want(self) -> Want:
        """The intended state of the kernel."""
        base = ip_interface(f"10.244.{self.number + 1}.0/32")
        return Want(DEV, 1450, Mac(self.mac), frozenset({base}), NETWORKS, self.view)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """A process begins: it knows no lease yet, and the kernel has what was left there."""
        self.node.mac = self.mac
        self.node.pump = self.node.new_pump(self.table())
        self.forwarded = 0
        self.loop = loop
        self.reconciler = Reconciler(
            self.kernel, clock=lambda: self.clock.now, sleep=self.clock.sleep, jitter=lambda: 0.0
        )
        self.task = loop.create_task(self.reconciler.run())

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """The process ends."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(self.task)

    def follow(self, leases: frozenset[Lease]) -> None:
        """Hear from the registry: the data path first, then the kernel, as plane.py does."""
        self.view = frozenset(lease for lease in leases if lease != self.lease)
        self.node.pump.table = self.table()
        self.loop.run_until_complete(set_want(self.reconciler, self.want()))

    def next_hop(self, number: int) -> int | None:
        """The MAC that this node's kernel sends frames for another node's pods to; None: unreachable."""
        have = self.kernel.have
        gateways = [route.gateway for route in have.routes if str(route.subnet) == subnet_of(number)]
        macs = [each.mac for each in have.neighbours if each.address in gateways and each.mac is not None]
        return macs[0].value if macs and have.link is not None and have.link.up else None

    def taken(self) -> int:
        """Datagrams that came of the socket, whatever became of them."""
        counters = self.node.pump.decap_counters
        return int(counters.frames) + sum(counters.by_reason().values())


class World(RuleBasedStateMachine):
    """The events, and the invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        ports = free_port(*ADDRESSES), free_port(*ADDRESSES)
        self.middle = [self.bound(address, ports[1]) for address in ADDRESSES]
        self.out = [self.bound(address, 0) for address in ADDRESSES]
        self.members = [Member(number, ports, self.loop) for number in range(len(ADDRESSES))]
        self.registry = {member.number: member.lease for member in self.members}
        self.flying: list[tuple[int, int, bytes]] = []  # from, to, datagram
        self.sent: dict[bytes, tuple[int, bytes]] = {}  # a pod's message -> its receiver, the IP packet
        self.copies: dict[bytes, int] = {}
        self.came: dict[bytes, int] = {}

    @staticmethod
    def bound(address: str, port: int) -> socket.socket:
        """A socket of the fabric."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, port))
        sock.setblocking(False)
        return sock

    def teardown(self) -> None:
        """Whatever happened: once it is over, everybody reaches everybody, exactly once."""
        try:
            self.recover()
        finally:
            for member in self.members:
                member.stop(self.loop)
                member.node.close()
            for sock in (*self.middle, *self.out):
                sock.close()
            self.loop.close()

    def recover(self) -> None:
        """The faults end: the registry is heard, the kernels obey, time passes."""
        self.flying.clear()
        for member in self.members:
            member.kernel.refuse = lambda _: False
            member.kernel.unreadable = False
            self.registry[member.number] = member.lease
        for member in self.members:
            self.hears(member.number)
        for _ in range(3):
            for number in range(len(self.members)):
                self.time_passes(number, RESYNC_S + RETRY_LAST_S)
        for member in self.members:
            assert plan(member.want(), member.kernel.have) == []
            for other in self.members:
                if other is not member:
                    token = self.say(member.number, other.number)
                    assert token is not None, "no way, though all is well"
                    while self.flying:
                        self.arrives(0)
                    assert self.came.get(token) == 1

    @initialize()
    def all_is_well(self) -> None:
        """At first everybody knows everybody."""
        for number in range(len(self.members)):
            self.hears(number)

    # What pods and the underlay do.

    @rule(who=WHO, whom=WHO)
    def speaks(self, who: int, whom: int) -> None:
        """A pod sends to another node's."""
        self.say(who, whom)

    def say(self, who: int, whom: int) -> bytes | None:
        """A pod sends to another node's; what it said, if the kernel had a way for it and vxland a VTEP."""
        member = self.members[who]
        mac = member.next_hop(whom) if who != whom else None
        if mac is None:
            return None
        token = MARK + b"%d" % len(self.sent)
        packet = ipv4(pod_of(who), pod_of(whom), UDP, udp(pod_of(who), pod_of(whom), token))
        self.sent[token] = whom, packet
        before = member.node.pump.encap_counters.frames
        member.node.put(ethernet(mac, member.mac, IPV4, packet))
        member.node.pump.on_tap_readable()
        for _ in range(int(member.node.pump.encap_counters.frames) - int(before)):
            ready, _, _ = select.select(self.middle, [], [], PATIENCE_S)
            (sock,) = ready
            datagram, (source, _) = sock.recvfrom(1 << 16)
            to = self.middle.index(sock)
            assert source == ADDRESSES[who]
            assert to == whom, "a frame left for the wrong VTEP"
            self.flying.append((who, to, datagram))
            self.copies[token] = 1
        return token

    @rule(which=st.integers(0, 9))
    def arrives(self, which: int) -> None:
        """One of what is under way arrives, in any order."""
        if self.flying:
            self.deliver(*self.flying.pop(which % len(self.flying)))

    @rule(which=st.integers(0, 9))
    def is_lost(self, which: int) -> None:
        """One of them does not."""
        if self.flying:
            self.flying.pop(which % len(self.flying))

    @rule(which=st.integers(0, 9))
    def is_repeated(self, which: int) -> None:
        """The underlay doubles one of them, which is for the pods to bear."""
        if self.flying:
            one = self.flying[which % len(self.flying)]
            self.flying.append(one)
            self.copies[MARK + one[2].rpartition(MARK)[2]] += 1

    @rule(which=st.integers(0, 9), at=st.sampled_from([0, 4, 5, 6]), bit=st.integers(0, 7), cut=st.integers(1, 60))
    def is_damaged(self, which: int, at: int, bit: int, cut: int) -> None:
        """One of them arrives with another flag or VNI, or cut; it must not come through."""
        if not self.flying:
            return
        who, to, datagram = self.flying.pop(which % len(self.flying))
        bad = bytearray(datagram)
        bad[at] ^= 1 << (3 if at == 0 else bit)
        delivered = sum(self.came.values())
        self.deliver(who, to, bytes(bad))
        self.deliver(who, to, datagram[:-cut])
        assert sum(self.came.values()) == delivered, "what was damaged came through"

    def deliver(self, who: int, to: int, datagram: bytes) -> None:
        """Hand a datagram to a node, and look at what comes out of its TAP."""
        member = self.members[to]
        self.out[who].sendto(datagram, (ADDRESSES[to], member.heard_on))
        member.forwarded += 1
        while member.taken() < member.forwarded:
            assert select.select([member.node.udp.receiver], [], [], PATIENCE_S)[0], "a datagram is gone uncounted"
            member.node.pump.on_udp_readable()
        member.node.read_host()
        for frame in member.node.frames():
            packet = frame[14:]
            if packet[9] != UDP:  # vxland's own answer to a pod: unreachable
                continue
            token = MARK + packet.rpartition(MARK)[2]
            if int.from_bytes(frame[:6], "big") != member.mac:  # sent before the restart: this kernel ignores it
                continue
            assert self.sent[token] == (to, packet), "delivered to the wrong node, or changed on its way"
            self.came[token] = self.came.get(token, 0) + 1
        member.node.came.clear()

    # What befalls nodes, their registry and their kernels.

    @rule(who=WHO)
    def hears(self, who: int) -> None:
        """A node learns what the registry holds now; until then it goes by what it knew."""
        self.members[who].follow(frozenset(self.registry.values()))
        self.loop.run_until_complete(idle())

    @rule(who=WHO)
    def leaves(self, who: int) -> None:
        """A node's lease is gone from the registry."""
        self.registry.pop(who, None)

    @rule(who=WHO, published=st.booleans())
    def restarts(self, who: int, published: bool) -> None:
        """A node restarts with another MAC and no leases; the registry learns of it now or later."""
        member = self.members[who]
        member.stop(self.loop)
        member.generation += 1
        member.view = frozenset()
        member.start(self.loop)
        if published:
            self.registry[who] = member.lease
        self.loop.run_until_complete(idle())

    @rule(who=WHO, what=st.sampled_from(["routes", "neighbours", "addresses", "down", "mac", "all"]))
    def is_disturbed(self, who: int, what: str) -> None:
        """Somebody meddles with a node's kernel."""
        kernel = self.members[who].kernel
        have, link = kernel.have, kernel.have.link
        assert link is not None
        match what:
            case "routes":
                have = replace(have, routes=())
            case "neighbours":
                have = replace(have, neighbours=())
            case "addresses":
                have = replace(have, addresses=(), routes=())
            case "down":
                have = replace(have, link=replace(link, up=False), routes=())
            case "mac":
                have = replace(have, link=replace(link, mac=Mac(2)), neighbours=())
            case "all":
                have = Have(link=replace(link, up=False, mac=Mac(2), mtu=1500))
        kernel.drift(have)
        self.loop.run_until_complete(idle())

    @rule(who=WHO, refusing=st.booleans(), unreadable=st.booleans())
    def kernel_fails(self, who: int, refusing: bool, unreadable: bool) -> None:
        """A node's kernel refuses what is asked, or answers nothing; or is well again."""
        kernel = self.members[who].kernel
        kernel.refuse = lambda _: refusing
        kernel.unreadable = unreadable

    @rule(who=WHO, seconds=st.sampled_from([0.05, 1.0, 40.0, 86400.0]))
    def time_passes(self, who: int, seconds: float) -> None:
        """Time goes by for a node; a day at once, where its machine was suspended."""
        clock = self.members[who].clock
        if seconds > RESYNC_S * 4:  # a jump: every sleeper wakes late, once
            clock.now += seconds
            seconds = 0.0
        self.loop.run_until_complete(clock.pass_time(seconds))

    @invariant()
    def nothing_twice(self) -> None:
        """A pod hears nothing more often than the underlay had copies of it."""
        assert all(count <= self.copies[token] for token, count in self.came.items())

    @invariant()
    def all_goes_on(self) -> None:
        """No reconciler has ended, no TAP is given up."""
        for member in self.members:
            assert not member.task.done()
            assert member.node.faults == []


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=EXAMPLES, stateful_step_count=30, print_blob=True)
