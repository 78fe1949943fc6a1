"""Peers send to an address of node a other than the one the tunnel is bound to.     lab.py: topology.

pod a - cni0 - flannel.1 (vxland) - e0 192.168.111.128 ===== e0 - flannel.1 (kernel vxlan) - cni0 - pod b
                                    lo 203.0.113.50 (or 2001:db8:50::50), which node b reaches through node a's e0
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, Final

import pytest

from .asking import ask_json, carried
from .conftest import running
from .injecting import listed, refused
from .lab import PORT, DataPath, Family, Lab
from .manager import Manager
from .ns import wait_until
from .traffic import ping, send_tcp
from .wire import Forger, Listener, inner_udp, vxlan_header

pytestmark = pytest.mark.netns

PUBLIC: Final[dict[Family, str]] = {4: "203.0.113.50", 6: "2001:db8:50::50"}
UNKNOWN: Final = "192.168.111.131"
LABS: Final[list[tuple[DataPath, Family]]] = [("compiled", 4), ("fast-path", 4), ("compiled", 6)]


class PublicLab(Lab):
    """A lab whose node b sends to node a's public address."""

    def build(self) -> None:
        """Build, and route to it."""
        super().build()
        self.public = PUBLIC[self.underlay]
        self.vxland.settings["underlay"]["public_address"] = self.public
        self.vxland.settings["datapath"] |= {"workers": 2}
        self.b.ns.ip(f"route add {self.public} via {self.a.vtep}")

    def up(self) -> None:
        """Start, and make the kernel's device send to the public address."""
        super().up()
        self.b.ns.run("bridge", "fdb", "del", self.a.mac(), "dev", "flannel.1", "dst", self.a.vtep, "self")
        self.send_to(self.public)

    def send_to(self, address: str) -> None:
        """Make node b send there."""
        self.b.ns.run("bridge", "fdb", "replace", self.a.mac(), "dev", "flannel.1", "dst", address, "self", "permanent")

    def give(self) -> None:
        """Give node a the address, and wait until it reports that it serves it."""
        self.a.ns.ip(f"addr replace {self.public} dev lo")
        wait_until(lambda: self.serves() == [self.a.vtep, self.public], "both are served", self.vxland.said)

    def take(self) -> None:
        """Remove the address."""
        self.a.ns.ip(f"addr del {self.public}/{32 if self.underlay == 4 else 128} dev lo")
        wait_until(lambda: self.serves() == [self.a.vtep], "one is served", self.vxland.said)

    def underlay_status(self) -> dict[str, Any]:
        """Return the underlay's part of vxlandctl status."""
        (plane,) = ask_json(self.vxland, "status")["planes"]
        found: dict[str, Any] = plane["underlay"]
        return found

    def serves(self) -> list[str]:
        """Return the addresses that it reports as served."""
        assert self.underlay_status()["advertised"] == self.public
        return list(self.underlay_status()["serves"])

    def bound(self) -> set[str]:
        """Return the local addresses of node a's sockets on the port."""
        lines = self.a.ns.run("ss", "-Hlun", "sport", "=", str(PORT)).splitlines()
        return {line.split()[3].rpartition(":")[0].strip("[]").partition("%")[0] for line in lines}

    def moves(self) -> None:
        """Assert that traffic crosses in both directions and both families."""
        ping(self.b.pod_ns, self.a.pod[4])
        ping(self.a.pod_ns, self.b.pod[6])
        send_tcp(self.b.pod_ns, self.a.pod_ns, self.a.pod[4], 1 << 20)


@pytest.fixture(scope="module", params=LABS, ids=str)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[PublicLab]:
    """The lab, up; node a does not have the public address yet."""
    data_path: DataPath
    family: Family
    data_path, family = request.param
    made = PublicLab(tmp_path_factory.mktemp("public"), data_path, underlay=family)
    made.vxland.manager = manager = Manager(tmp_path_factory.mktemp("manager"))
    try:
        for _ in running(made):
            yield made
    finally:
        manager.close()


@pytest.mark.parametrize("lab", [("interpreted", 4), *LABS], ids=str, indirect=True, scope="module")
def test_it_is_served_while_it_exists(lab: PublicLab) -> None:
    """Peers sent to an address on another interface or lo, where no socket listened, and nothing was reported.

    It may be added and removed while vxland runs. Only these two addresses are bound; datagrams leave from the first.
    """
    assert lab.serves() == [lab.a.vtep]
    assert lab.bound() == {lab.a.vtep, lab.public}
    assert lab.b.pod_ns.attempt("ping", "-c1", "-W1", lab.a.pod[4]).returncode
    lab.give()
    assert lab.vxland.wait_for("public_address_here")["address"] == lab.public
    lab.moves()
    if lab.vxland.has_fast_path:
        wait_until(lambda: programs_receive(lab), "programs carry a ping from there", lab.vxland.said)
    lab.take()
    lab.vxland.wait_for("public_address_away")
    assert not programs_receive(lab)
    lab.send_to(lab.a.vtep)
    lab.moves()
    lab.send_to(lab.public)
    lab.give()
    lab.moves()
    lab.take()


def programs_receive(lab: PublicLab) -> bool:
    """Return whether programs carry a ping from pod b to the public address."""
    before = carried(lab.vxland, "decap")
    lab.b.pod_ns.attempt("ping", "-c1", "-W0.2", lab.a.pod[4])
    return carried(lab.vxland, "decap") > before


def test_unknown_senders_are_refused_there(lab: PublicLab) -> None:
    """As at the bound address: by the data path, and by each filter before the sockets."""
    if lab.underlay == 6:
        pytest.skip("forged over IPv4")
    lab.b.ns.ip(f"addr replace {UNKNOWN}/24 dev e0")
    macs, vxland = (lab.b.mac(), lab.a.mac()), lab.vxland
    for kind in ("off", "nftables"):
        vxland.stop()
        vxland.settings["security"]["input_filter"] = kind
        vxland.start()
        lab.give()
        if kind == "nftables":
            wait_until(lambda: lab.public in listed(lab), "the filter's table")
        with Listener(lab.a.ns, lab.a.gateway[4]) as listener:
            for source, content in ((UNKNOWN, b"unknown"), (lab.b.vtep, b"end")):
                with Forger(lab.b.ns, source, lab.public) as forger:
                    inner = inner_udp(macs, (lab.b.gateway[4], lab.a.gateway[4]), listener.port, content)
                    for _ in range(5):
                        forger.send(vxlan_header() + inner)
            heard = listener.receive_until(b"end")
        assert b"unknown" not in heard
        wanted = 5 if kind == "off" else 0
        wait_until(lambda: refused(vxland, "unknown_vtep") >= wanted, "the refusals")  # noqa: B023  (called at once)
        assert refused(vxland, "unknown_vtep") == wanted
        lab.moves()
    del vxland.settings["security"]["input_filter"]
    vxland.stop()
    vxland.start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_its_sockets_outlive_a_restart(lab: PublicLab, number: signal.Signals) -> None:
    """The service manager stores them too, and datagrams wait meanwhile. Without the setting they are closed."""
    vxland, manager = lab.vxland, lab.vxland.manager
    assert isinstance(manager, Manager)
    lab.give()
    workers = 2 if vxland.gear == "compiled" else 1
    names = [f"public/flannel.1/{at}" for at in range(workers)]
    assert [name for name in manager.names if name.startswith("public/")] == names
    vxland.stop(number)
    with lab.a.pod_ns.socket(lab.a.pod[4]) as target, lab.b.pod_ns.socket(lab.b.pod[4]) as source:
        for at in range(50):
            source.sendto(b"%d" % at, target.getsockname())
        vxland.start()
        assert [target.recv(100) for _ in range(50)] == [b"%d" % at for at in range(50)]
    assert vxland.events("descriptor_dropped") == []
    lab.moves()
    vxland.stop()
    del vxland.settings["underlay"]["public_address"]
    vxland.start()
    assert lab.bound() == {lab.a.vtep}
    assert not [name for name in manager.names if name.startswith("public/")]
    vxland.stop()
    vxland.settings["underlay"]["public_address"] = lab.public
    vxland.start()
    assert [name for name in manager.names if name.startswith("public/")] == names


def test_the_address_is_used_by_another_program(lab: PublicLab) -> None:
    """The node forwards at the bound address, names the other program, and serves both addresses once it is gone."""
    lab.give()
    lab.vxland.stop()
    manager = lab.vxland.manager
    assert isinstance(manager, Manager)
    manager.drop_all()
    with lab.a.ns.socket(lab.public, port=PORT):
        lab.vxland.start()
        unserved = lab.vxland.wait_for("public_address_unserved")
        assert (unserved["address"], unserved["device"]) == (lab.public, "flannel.1")
        assert f"UDP port {PORT} is held by" in unserved["cause"]
        assert lab.serves() == [lab.a.vtep]
        assert lab.underlay_status()["unserved"] == unserved["cause"]
    wait_until(lambda: lab.serves() == [lab.a.vtep, lab.public], "it is served", lab.vxland.said)
    lab.moves()
    assert len(lab.vxland.events("public_address_unserved")) == 1
