"""Datagrams as unknown senders, peers and NAT send them, and their fate at node a, which runs vxland."""

from __future__ import annotations

import re
from typing import Any, Final

from .asking import ask_json
from .lab import Lab, Vxland
from .ns import wait_until
from .traffic import ping, send_tcp
from .wire import Forger, Listener, inner_udp, vxlan_header

C_VTEP, UNKNOWN = "192.168.111.130", "192.168.111.131"
NODE_C: Final[dict[str, Any]] = {"subnet": ["10.244.2.0/24"], "vtep": C_VTEP, "mac": "02:00:00:00:00:0c"}
TABLE: Final = ("ip", "vxland-flannel.1")


def restart(vxland: Vxland) -> None:
    """Stop it if it runs, and start it with the settings."""
    vxland.stop()
    vxland.start()


def further_addresses(lab: Lab) -> None:
    """Give node b's e0 the forgers' addresses."""
    for address in (C_VTEP, UNKNOWN):
        lab.b.ns.ip(f"addr replace {address}/24 dev e0")


def arrives(lab: Lab, outer_src: str, inner_src: str | None = None, count: int = 1) -> int:
    """Return how many of `count` datagrams reach node a's stack; a final one from node b's address always does."""
    a, b = lab.a, lab.b
    macs = (b.mac(), a.mac())
    with Listener(a.ns, a.gateway[4]) as listener, Forger(b.ns, outer_src, a.vtep) as forger:
        for number in range(count):
            addresses = (inner_src or b.gateway[4], a.gateway[4])
            forger.send(vxlan_header() + inner_udp(macs, addresses, listener.port, b"%d" % number))
        found: set[bytes] = set()

        def probed() -> bool:  # repeatedly: another worker may process the end marker first
            with Forger(b.ns, b.vtep, a.vtep) as known:
                known.send(vxlan_header() + inner_udp(macs, (b.gateway[4], a.gateway[4]), listener.port, b"end"))
            found.update(listener.receive_until(b"end"))
            probes.append(1)
            return len(probes) > 4 or len(found) == count

        probes: list[int] = []
        wait_until(probed, "the last datagram")
        return len(found)


def refused(vxland: Vxland, reason: str) -> int:
    """Return the datagrams that the running daemon dropped for a reason."""
    return int(ask_json(vxland, "stats")["decap"]["drops"][reason])


def everything_moves(lab: Lab) -> None:
    """Assert that traffic crosses between pods and hosts of both nodes, in both families."""
    ping(lab.a.pod_ns, lab.b.pod[4])
    ping(lab.b.pod_ns, lab.a.pod[6], 1200)
    ping(lab.b.ns, lab.a.pod[4])  # from flannel.1's address
    ping(lab.a.ns, lab.b.pod[6])
    send_tcp(lab.b.pod_ns, lab.a.pod_ns, lab.a.pod[4], 1 << 20)


def listed(lab: Lab) -> str:
    """Return the filter's table as nft lists it; empty if there is none."""
    return lab.a.ns.attempt("nft", "list", "table", *TABLE).stdout


def elements(lab: Lab) -> set[str]:
    """Return the addresses in the filter's table."""
    return set(re.findall(r"192\.168\.111\.\d+(?=[, ])", listed(lab).partition("chain")[0]))


def only_peers_arrive(lab: Lab) -> None:
    """Assert `security.input_filter: nftables` from the start, with further_addresses(), as leases come and go."""
    wait_until(lambda: elements(lab) == {lab.b.vtep}, "the filter's table", lambda: listed(lab))
    assert arrives(lab, UNKNOWN, count=7) == 0
    assert arrives(lab, C_VTEP, count=7) == 0
    assert refused(lab.vxland, "unknown_vtep") == 0
    assert "packets 14 " in listed(lab)
    wait_until(
        lambda: ask_json(lab.vxland, "status")["planes"][0]["input_filter"]["dropped"] == 14, "status has the count"
    )
    everything_moves(lab)

    lab.vxland.peers.append(NODE_C)
    lab.vxland.reload()
    wait_until(lambda: elements(lab) == {lab.b.vtep, C_VTEP}, "node c is let in")
    assert arrives(lab, C_VTEP, count=7) == 7
    assert arrives(lab, UNKNOWN, count=7) == 0
    lab.vxland.peers.remove(NODE_C)
    lab.vxland.reload()
    wait_until(lambda: elements(lab) == {lab.b.vtep}, "node c is kept out")
    assert arrives(lab, C_VTEP, count=7) == 0
    assert refused(lab.vxland, "unknown_vtep") == 0
    assert ask_json(lab.vxland, "status")["planes"][0]["input_filter"]["error"] == ""
