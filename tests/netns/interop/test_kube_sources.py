"""A peer that sends from an address other than the one its Node publishes, over a real API server.

pod a - cni0 - flannel.1 (vxland, kube) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
  API server on node a's loopback       =====  e0 of node b: .129, which it sends from, and .140, which it advertises
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from click.testing import CliRunner

from tests.registry import realkube
from tests.registry.kubeapi import OWN, STRATEGIC, Admin, kubeconfig, net_conf
from vxland.ctl.cli import main

from .asking import ask, ask_json, control
from .injecting import refused
from .lab import NETWORK, Lab
from .ns import wait_until

pytestmark = pytest.mark.netns

ADVERTISED, PEER = "192.168.111.140", "node1"


class KubeLab(Lab):
    """Node a follows the API server `api`, which has node b's Node."""

    api: realkube.RealKube

    def up(self) -> None:
        """Build, register both Nodes, and start everything except vxland."""
        self.kernel.create()
        self.b.ns.ip(f"addr add {ADVERTISED}/24 dev e0")
        texts = {
            "kube-subnet-manager": "true",
            "backend-type": "vxlan",
            "backend-data": f'{{"VNI":1,"VtepMAC":"{self.b.mac()}"}}',
            "public-ip": ADVERTISED,
        }
        addresses = [{"type": "Hostname", "address": PEER}, {"type": "InternalIP", "address": self.b.vtep}]

        async def register(admin: Admin) -> None:
            await admin.add(OWN, self.a.subnet[4])
            await admin.add(PEER, self.b.subnet[4])
            await admin.annotate(PEER, texts)
            await admin.ask("PATCH", f"nodes/{PEER}/status", {"status": {"addresses": addresses}}, STRATEGIC)

        self.administer(register)

    def administer(self, work: Callable[[Admin], Awaitable[None]]) -> None:
        """Run an administrator's job at node a."""

        async def entered() -> None:
            async with Admin(self.api) as admin:
                await work(admin)

        self.a.ns.inside(lambda: asyncio.run(entered()))

    def overwrite(self, address: str | None, node: str = PEER) -> None:
        """Set or remove a Node's annotation `public-ip-overwrite`."""
        self.administer(lambda admin: admin.annotate(node, {"public-ip-overwrite": address}))

    def set_sources(self, sources: dict[str, list[str]]) -> None:
        """Reload node a with these `security.sources`."""
        self.vxland.settings["security"]["sources"] = sources
        self.vxland.write()
        self.vxland.hang_up("reloaded")

    def answered(self) -> bool:
        """Return whether pod b reaches pod a."""
        return self.b.pod_ns.attempt("ping", "-c1", "-W1", self.a.pod[4]).returncode == 0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[KubeLab]:
    """Both nodes and the API server; vxland is not started."""
    folder = tmp_path_factory.mktemp("kube")
    made = KubeLab(folder, "compiled")
    try:
        made.build()
        with realkube.running(tmp_path_factory.mktemp("api"), made.a.ns.inside) as made.api:
            made.vxland.settings |= {
                "overlay": {},
                "underlay": {"interface": "e0"},
                "registry": {"kind": "kube"},
                "kube": {
                    "kubeconfig": str(kubeconfig(made.api, folder / "kubeconfig")),
                    "net_conf": str(net_conf(folder / "net-conf.json", NETWORK[4])),
                    "node_name": OWN,
                },
            }
            made.up()
            yield made
    finally:
        made.down()


@pytest.mark.parametrize("input_filter", ["off", "nftables"])
def test_a_node_that_sends_from_another_address(lab: KubeLab, input_filter: str) -> None:
    """Refused until an overwrite makes its Node's own addresses sources, or `security.sources` lists it."""
    vxland = lab.vxland
    vxland.settings["security"] = {"source_check": "strict", "input_filter": input_filter}
    vxland.launch()
    try:
        vxland.wait_for("forwarding")
        wait_until(lambda: vxland.neighbours() == {lab.b.base[4]: lab.b.mac()}, "the peer is known", vxland.said)
        lab.kernel.add_peer(lab.a, lab.a.mac())  # the device exists by now
        if input_filter != "off":
            vxland.wait_for("input_filter_set")
        before = refused(vxland, "unknown_vtep")
        assert not lab.answered()
        if input_filter == "off":
            wait_until(lambda: refused(vxland, "unknown_vtep") > before, "it is refused by vxland", vxland.said)
        else:
            assert refused(vxland, "unknown_vtep") == before
        lab.overwrite(ADVERTISED)
        wait_until(lab.answered, "let in by its Node's InternalIP", vxland.said)
        (peer,) = ask_json(vxland, "peers")
        assert (peer["vtep"], peer["sources"]) == (ADVERTISED, [f"{lab.b.vtep}/32"])
        lab.overwrite(None)
        wait_until(lambda: not lab.answered(), "refused without the overwrite")
        lab.set_sources({ADVERTISED: [lab.b.vtep]})
        wait_until(lab.answered, "let in by security.sources", vxland.said)
        lab.set_sources({})
        wait_until(lambda: not lab.answered(), "refused again")
        assert vxland.events("input_filter_failed", "lease_quarantined") == []
    finally:
        lab.overwrite(None)
        vxland.stop()


def test_its_own_overwrite_is_followed(lab: KubeLab) -> None:
    """Peers sent to the annotation's address, where no socket listened, although the node had it on lo.

    The annotation is followed while vxland runs, and known before its sockets open at the next start.
    """
    vxland, public = lab.vxland, "203.0.113.50"
    vxland.settings["security"] = {"source_check": "off"}

    def serves(*addresses: str) -> bool:
        (plane,) = ask_json(vxland, "status")["planes"]
        return bool(list(addresses) == plane["underlay"]["serves"])

    def send_to(address: str) -> None:
        lab.b.ns.run("bridge", "fdb", "del", lab.a.mac(), "dev", "flannel.1", "self")
        lab.b.ns.run("bridge", "fdb", "replace", lab.a.mac(), "dev", "flannel.1", "dst", address, "self", "permanent")

    lab.a.ns.ip(f"addr replace {public}/32 dev lo")
    lab.b.ns.ip(f"route replace {public} via {lab.a.vtep}")
    vxland.launch()
    try:
        wait_until(lambda: vxland.neighbours() == {lab.b.base[4]: lab.b.mac()}, "the peer is known", vxland.said)
        lab.kernel.add_peer(lab.a, lab.a.mac())
        wait_until(lab.answered, "pod b reaches pod a", vxland.said)
        assert serves(lab.a.vtep)
        lab.overwrite(public, OWN)
        wait_until(lambda: serves(lab.a.vtep, public), "both are served", vxland.said)
        send_to(public)
        wait_until(lab.answered, "pod b reaches pod a there", vxland.said)
        vxland.stop()
        vxland.launch()
        vxland.wait_for("public_address_here")
        vxland.wait_for("forwarding")
        wait_until(lab.answered, "and after a restart", vxland.said)
        lab.overwrite(None, OWN)
        wait_until(lambda: serves(lab.a.vtep), "one is served", vxland.said)
    finally:
        lab.overwrite(None, OWN)
        vxland.stop()


def test_nodes_and_pods_have_names(lab: KubeLab) -> None:
    """In peers, trace, drops and capture; those of pods once the role allows it, and the reason until then."""
    vxland, pod = lab.vxland, "namespaces/default/pods/web"
    vxland.settings["security"] = {"source_check": "off"}
    vxland.settings["kube"]["pod_names"] = True
    names = {lab.b.vtep: PEER, lab.b.pod[4]: "default/web"}
    listing = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}

    async def prepare(admin: Admin) -> None:
        await admin.annotate(PEER, {"public-ip": lab.b.vtep})
        spec = {"nodeName": PEER, "containers": [{"name": "c", "image": "i"}]}
        thing = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}
        await admin.ask("POST", "namespaces/default/pods", thing)
        status = {"phase": "Running", "podIP": lab.b.pod[4], "podIPs": [{"ip": lab.b.pod[4]}]}
        await admin.ask("PATCH", f"{pod}/status", {"status": status}, STRATEGIC)

    lab.administer(prepare)
    vxland.launch()
    try:
        wait_until(lambda: vxland.neighbours() == {lab.b.base[4]: lab.b.mac()}, "the peer is known", vxland.said)
        vxland.wait_for("forwarding")
        (peer,) = ask_json(vxland, "peers")
        assert peer["node"] == PEER
        assert PEER in ask(vxland, "peers")
        assert PEER in ask(vxland, "top", "--once")
        done = CliRunner().invoke(main, ["--socket", str(control(vxland)), "trace", lab.a.pod[4], lab.b.pod[4]])
        assert f"{lab.b.vtep} is {PEER}" in done.stdout
        assert "names of pods are missing: RBAC gives this user no list of pods" in done.stderr
        lab.a.ns.inside(lambda: lab.api.grant("pod-names", listing))
        wait_until(
            lambda: ask_json(vxland, "trace", lab.a.pod[4], lab.b.pod[4])["names"] == names, "the pod", vxland.said
        )
    finally:
        vxland.settings["kube"]["pod_names"] = False
        vxland.stop()
        lab.administer(lambda admin: admin.annotate(PEER, {"public-ip": ADVERTISED}))
