"""The choice between iptables' two backends, by the rules that the host already has. Pure.

The kernel asks both: an ACCEPT in one does not overrule a DROP in the other. In a container the `iptables` of the path
is the image's, which says nothing of the host's. flannel's image decides in the same way
(kubernetes-sigs/iptables-wrappers): the backend with kubelet's chains, or else the one with more rules. Two things
differ here. flannel's own rules do not count, so that a wrong choice does not confirm itself. And a built-in chain that
drops by policy counts as a rule. If both are equal, the backend of the path's `iptables` is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Backend: TypeAlias = Literal["nft", "legacy"]

BACKENDS: Final[tuple[Backend, Backend]] = ("nft", "legacy")

_KUBELET: Final = re.compile(r"^:(KUBE-IPTABLES-HINT|KUBE-KUBELET-CANARY) ", re.MULTILINE)
_RULE: Final = re.compile(r"^-A (?!FLANNEL-)(?!.* -j FLANNEL-)", re.MULTILINE)
_POLICY: Final = re.compile(r"^:\S+ DROP ", re.MULTILINE)


def has_kubelet_chains(saved: str) -> bool:
    """Return whether the output of an iptables-save has a chain that kubelet makes in the backend it uses."""
    return _KUBELET.search(saved) is not None


def count_rules(saved: str) -> int:
    """Count the rules and policies in the output of an iptables-save that are not flannel's."""
    return len(_RULE.findall(saved)) + len(_POLICY.findall(saved))


def choose(saved: Mapping[Backend, str], default: Backend) -> tuple[Backend, str]:
    """Return the backend to write to, and the reason; `saved` is each backend's iptables-save of both families."""
    for backend in BACKENDS:
        if has_kubelet_chains(saved.get(backend, "")):
            return backend, "kubelet's chains are there"
    counts = {backend: count_rules(saved.get(backend, "")) for backend in BACKENDS}
    if counts["nft"] == counts["legacy"]:
        return default, "it is what the iptables command writes to"
    more = max(BACKENDS, key=counts.__getitem__)
    return more, f"rules of others: {counts['nft']} in nft, {counts['legacy']} in legacy"
