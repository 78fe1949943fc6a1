"""The choice between iptables' two backends, by what the host's rules are in. Pure.

The kernel asks both: an ACCEPT in one does not overrule a DROP in the other. In a container the `iptables` of the path
is the image's, which says nothing of the host's. flannel's image decides so too (kubernetes-sigs/iptables-wrappers):
the backend with kubelet's chains, or else the one with more rules. Two things differ here: flannel's own rules do not
count, so that a wrong choice does not confirm itself; and a built-in chain that drops by policy counts as a rule. Where
nothing tells them apart, it is the backend of the path's `iptables`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Backend: TypeAlias = Literal["nft", "legacy"]

BACKENDS: Final[tuple[Backend, Backend]] = ("nft", "legacy")

_KUBELETS: Final = re.compile(r"^:(KUBE-IPTABLES-HINT|KUBE-KUBELET-CANARY) ", re.MULTILINE)
_RULE: Final = re.compile(r"^-A (?!FLANNEL-)(?!.* -j FLANNEL-)", re.MULTILINE)
_POLICY: Final = re.compile(r"^:\S+ DROP ", re.MULTILINE)


def has_kubelets(saved: str) -> bool:
    """Whether the output of an iptables-save has a chain that kubelet makes in the backend it uses."""
    return _KUBELETS.search(saved) is not None


def weight(saved: str) -> int:
    """How many rules and policies there are that are not flannel's, in the output of an iptables-save."""
    return len(_RULE.findall(saved)) + len(_POLICY.findall(saved))


def choose(saved: Mapping[Backend, str], own: Backend) -> tuple[Backend, str]:
    """The backend to write to, and the reason; `saved` is what each one's iptables-save prints, of both families."""
    for backend in BACKENDS:
        if has_kubelets(saved.get(backend, "")):
            return backend, "kubelet's chains are there"
    weights = {backend: weight(saved.get(backend, "")) for backend in BACKENDS}
    if weights["nft"] == weights["legacy"]:
        return own, "it is what the iptables command writes to"
    more = max(BACKENDS, key=weights.__getitem__)
    return more, f"rules of others: {weights['nft']} in nft, {weights['legacy']} in legacy"
