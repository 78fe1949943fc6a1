"""Sockets of an underlay in a VRF are bound to it, since it has its own routes and datagrams.

    +------- node -------+            +---- peer ----+
    |  e0 192.0.2.1/24 --+----------- |  192.0.2.2   |
    |  in vrf0, table 10 |            |              |
    +--------------------+            +--------------+

On a kernel without VRF devices (CONFIG_NET_VRF), a rule sends packets through e0 to table 10. Sockets are then bound to
e0 in place of vrf0, which has the same effect.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, closing
from ipaddress import ip_address

import pytest

from tests.netns.namespace import Netns
from vxland.forwarding.io.udp import Udp, mismatch
from vxland.kernel.ping import Pinger
from vxland.kernel.sockets import bound
from vxland.model.errors import StartError
from vxland.model.kernel_state import KIND_UNICAST
from vxland.netlink.client import Netlink
from vxland.netlink.routes import look_up
from vxland.netlink.rtnl import Rtnl
from vxland.node.path_mtu_kernel import Paths

pytestmark = pytest.mark.netns

HERE, THERE, PORT = ip_address("192.0.2.1"), ip_address("192.0.2.2"), 8472


@pytest.fixture
def node(netns: Callable[[], Netns]) -> Netns:
    """Make the node above, whose table main has no route to the peer."""
    ns, peer = netns(), netns()
    ns.ip(f"link add e0 type veth peer name e0 netns {peer.name}")
    try:
        ns.ip("link add vrf0 type vrf table 10")
    except subprocess.CalledProcessError:
        ns.ip("rule add oif e0 table 10")
    else:
        ns.ip("link set vrf0 up")
        ns.ip("link set e0 master vrf0")
    ns.ip("address add 192.0.2.1/24 dev e0 noprefixroute")
    ns.ip("link set e0 up")
    ns.ip("route replace 192.0.2.0/24 dev e0 table 10 mtu 1400")
    peer.ip("address add 192.0.2.2/24 dev e0")
    peer.ip("link set e0 up")
    return ns


def test_an_underlay_in_a_vrf(node: Netns) -> None:
    """Sockets outside the VRF had no route to send by and received nothing, and no error named the VRF."""

    async def main() -> None:
        with ExitStack() as stack:
            netlink = stack.enter_context(closing(Netlink()))
            underlay = await netlink.find_underlay("e0")
            names = {link.name: link.index for link in await netlink.links()}
            assert underlay.vrf == names.get("vrf0", 0)
            vrf = underlay.vrf or underlay.index
            udp = stack.enter_context(closing(Udp(HERE, PORT, 2, offload=True, vrf=vrf)))
            assert udp.max_datagrams >= 64
            for sender in udp.senders:
                sender.sendto(b"to the peer", (str(THERE), PORT))
            paths = stack.enter_context(closing(Paths(HERE, PORT, vrf)))
            assert paths.mtu_to(THERE) == 1400
            outside = stack.enter_context(closing(Paths(HERE, PORT)))
            assert outside.mtu_to(THERE) is None
            pinger = stack.enter_context(closing(Pinger(HERE, full=False, vrf=vrf)))
            pinger.send(THERE, 1, b"is it there?")
            rtnl = stack.enter_context(closing(Rtnl()))
            assert await look_up(rtnl, [THERE]) == {}
            route = (await look_up(rtnl, [THERE], vrf))[THERE]
            assert (route.kind, route.index, route.gateway) == (KIND_UNICAST, underlay.index, False)
            assert await netlink.is_local(HERE, vrf)
            assert not await netlink.is_local(THERE, vrf)
            other = stack.enter_context(bound(HERE, 0))
            for inherited, why in ((udp.senders[0], ""), (other, "it is in another VRF")):
                assert mismatch(inherited.fileno(), HERE, vrf=vrf) == why
            with pytest.raises(StartError, match="is in a VRF, and a socket cannot be bound to that: Invalid argument"):
                Udp(HERE, PORT + 1, 1, offload=False, vrf=-1)

    node.run_async(main)


def test_a_second_receiver_is_in_the_vrf_too(node: Netns) -> None:
    """The socket of the advertised address is in the VRF, even if the node does not have that address."""

    async def main() -> None:
        with closing(Netlink()) as netlink:
            underlay = await netlink.find_underlay("e0")
        vrf = underlay.vrf or underlay.index
        with (
            closing(Udp(HERE, PORT, 1, offload=False, vrf=vrf)) as udp,
            udp.public(ip_address("203.0.113.5"), first=True, shared=False) as public,
        ):
            assert public.getsockopt(socket.SOL_SOCKET, 62) == vrf  # SO_BINDTOIFINDEX
            assert public.getsockname() == ("203.0.113.5", PORT)

    node.run_async(main)
