"""Inherited sockets of the underlay, handed to the planes of a node."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from vxland.config import Settings
from vxland.forwarding.io.fdstore import Inherited
from vxland.forwarding.pump import COMPILED
from vxland.model.errors import ConfigError, InvalidConfigError
from vxland.model.kernel_state import Underlay
from vxland.node import daemon
from vxland.node.passed_sockets import PassedSockets, Planes
from vxland.node.plane_opening import choose_planes
from vxland.node.underlays import find_underlays
from vxland.registry.net_conf import NetConf

HERE = {4: "192.0.2.1", 6: "2001:db8::1"}
FREEBIND = {4: (socket.IPPROTO_IP, 15), 6: (socket.IPPROTO_IPV6, 78)}  # linux/in.h, linux/in6.h
PORT = 8472
NETWORKS = {4: ip_network("10.244.0.0/16"), 6: ip_network("fd00:10:244::/56")}


def settings(**sections: object) -> Settings:
    """Return the settings of a node of a Kubernetes cluster, of both families."""
    underlay = {"sockets": "inherited", "address": HERE[4], "address_v6": HERE[6], "mtu": 1500}
    return Settings.model_validate({"registry": {"kind": "kube"}, "underlay": underlay, **sections})


def planes(node: Settings, *versions: int, port: int = PORT) -> Planes:
    """Return the planes of these families that the node would open."""
    conf = NetConf(tuple(NETWORKS[version] for version in versions), port=port)
    return choose_planes(node, conf, asyncio.run(find_underlays(node, conf)))


class Passed:
    """A receiving socket and two sending ones for each family, on one free port."""

    def __init__(self) -> None:
        self.sockets = [self.bound(version, 0) for version in (4, 6) for _ in range(3)]
        self.port = int(self.sockets[0].getsockname()[1])
        self.sockets[3].close()
        self.sockets[3] = self.bound(6, self.port)

    def inherited(self, *more: socket.socket) -> Inherited:
        """Return duplicates of them, as a starting process has them."""
        return Inherited([("underlay", os.dup(each.fileno())) for each in (*self.sockets, *more)])

    @staticmethod
    def bound(version: int, port: int) -> socket.socket:
        """Return a socket that shares its port."""
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(*FREEBIND[version], 1)  # no machine has these addresses
        sock.bind((HERE[version], port))
        return sock


@pytest.fixture
def passed() -> Iterator[Passed]:
    """Sockets of both families."""
    made = Passed()
    yield made
    for sock in made.sockets:
        sock.close()


def test_each_plane_gets_its_familys(passed: Passed) -> None:
    """Under the names that endpoints take; the plane has as many workers and source ports as there are sockets."""
    inherited = passed.inherited()
    sockets = PassedSockets(settings(), inherited)
    for _ in range(2):  # a node starts its planes again when flanneld has gone
        lent = Inherited([])
        found = sockets.lend(planes(settings(), 4, 6, port=passed.port), lent)
        for (plane, underlay), (first, device) in zip(found, ((0, "flannel.1"), (3, "flannel-v6.1")), strict=True):
            assert (plane.device, plane.datapath.workers, plane.underlay.source_ports) == (device, 1, 2)
            assert (underlay.elsewhere, underlay.mtu, underlay.interface) == (True, 1500, "")
            take = lent.of(device)
            for role, number, at in (("receive", 0, 0), ("send", 0, 1), ("send", 1, 2)):
                fd = take(role, number)  # type: ignore[arg-type]  # a Role
                assert fd is not None
                assert os.path.sameopenfile(fd, passed.sockets[first + at].fileno())
                os.close(fd)
            assert (take("receive", 1), take("send", 2)) == (None, None)


def test_a_family_that_the_network_lacks(passed: Passed) -> None:
    """Sockets of it are refused, not left alone: their port would receive for nobody."""
    sockets = PassedSockets(settings(), passed.inherited())
    with pytest.raises(InvalidConfigError) as caught:
        sockets.lend(planes(settings(), 4, port=passed.port), Inherited([]))
    assert len(caught.value.problems) == 3
    assert "an IPv6 UDP socket on 2001:db8::1 port" in str(caught.value)


def test_own_sockets_need_none(passed: Passed) -> None:
    """Then descriptors that the program passed are closed with a reason, as before."""
    own = Settings()
    inherited = passed.inherited()
    chosen = [(own, Underlay("ens33", 2, ip_address(HERE[4]), 1500))]
    assert PassedSockets(own, inherited).lend(chosen, inherited) == chosen
    assert inherited.sort_out({}) == {"underlay"}


def test_the_variables_are_read_before_there_is_an_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors of the loop had the numbers of passed ones that were closed: vxland closed them as useless."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "0")
    daemon.serve(None, Settings(), Path("subnet.env")).close()
    assert "LISTEN_FDS" not in os.environ


def test_workers_and_sockets_go_together(passed: Passed) -> None:
    """A worker without a socket would get nothing, and a socket without a worker would keep its share of the flows."""
    node = settings(datapath={"workers": 7})
    another = passed.bound(4, passed.port)
    more = () if COMPILED else (another,)  # the interpreted gear has one worker whatever the setting
    with another, pytest.raises(ConfigError) as caught:
        PassedSockets(node, passed.inherited(*more)).lend(planes(node, 4, 6, port=passed.port), Inherited([]))
    remedy = "write auto or 1" if COMPILED else f"pass one socket on port {passed.port}, not 2"
    assert str(caught.value).startswith(f"datapath.workers: 7: {remedy}")


def test_a_network_of_a_family_without_an_address() -> None:
    """The key of that family is named."""
    v4_only = {"sockets": "inherited", "address": HERE[4], "mtu": 1500}
    with pytest.raises(ConfigError) as caught:
        planes(settings(underlay=v4_only), 4, 6)
    assert (caught.value.key, caught.value.value) == ("underlay.address_v6", None)


def test_the_address() -> None:
    """The plane is bound to the configured one."""
    ((_, underlay),) = planes(settings(), 6)
    assert underlay.address == ip_address(HERE[6])
