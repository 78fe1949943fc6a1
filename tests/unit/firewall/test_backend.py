"""The choice of iptables' backend from what iptables-save prints; real tables: tests/netns/test_iptables_backend.py."""

from __future__ import annotations

import pytest

from vxland.firewall.backend import BACKENDS, Backend, choose

NOTHING = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
DROPS = NOTHING.replace("FORWARD ACCEPT", "FORWARD DROP")
ONE = NOTHING.replace("COMMIT", "-A INPUT -i lo -j ACCEPT\nCOMMIT")
TWO = ONE.replace("COMMIT", "-A INPUT -p tcp -j ACCEPT\nCOMMIT")
KUBELET = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
HINT = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"
FLANNEL = ONE.replace(
    "COMMIT",
    ':FLANNEL-FWD - [0:0]\n-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD\n'
    '-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT\nCOMMIT',
)


@pytest.mark.parametrize("own", BACKENDS)
@pytest.mark.parametrize(
    ("nft", "legacy", "chosen"),
    [
        ("", "", None),
        (NOTHING, NOTHING, None),
        (ONE, ONE, None),
        (ONE, NOTHING, "nft"),
        (NOTHING, ONE, "legacy"),
        (NOTHING, DROPS, "legacy"),  # a policy is no rule, but it drops
        (ONE, TWO, "legacy"),
        (TWO, ONE, "nft"),
        (KUBELET, TWO, "nft"),
        (TWO, KUBELET, "legacy"),
        (TWO, HINT, "legacy"),
        (FLANNEL, TWO, "legacy"),  # left by a wrong choice
        (FLANNEL, ONE, None),
    ],
)
def test_the_backend_with_the_hosts_rules(nft: str, legacy: str, chosen: Backend | None, own: Backend) -> None:
    """Kubelet's chains decide, or else the number of foreign rules, or else the iptables of the path."""
    assert choose({"nft": nft, "legacy": legacy}, own)[0] == (chosen or own)
