"""The drawing of both nodes at the top of the demo."""

from __future__ import annotations

from rich.text import Text

from vxland.lab.namespaces import Lab
from vxland.lab.topology import BRIDGE, OVERLAY, PORT, UNDERLAY, UNDERLAY_MTU, VNI, Kind, LabNode

_WIDTH = 36  # of one node
KINDS = {"vxland": "TAP held by vxland", "kernel": "kernel vxlan device"}


def drawing(lab: Lab, kinds: tuple[Kind, Kind]) -> Text:
    """Return the topology, with the name of each node's namespace."""
    columns = [_node(node, kind, lab.namespace(node)) for node, kind in zip(lab.nodes, kinds, strict=True)]
    lines = [f" {left}    {right}" for left, right in zip(*columns, strict=True)]
    at, gap = 6, _WIDTH + 4
    middle = f" MTU {UNDERLAY_MTU}, VNI {VNI} over UDP {PORT} "
    lines.append(" " * at + "└" + f"{middle:─^{gap - 1}}" + "┘")
    text = Text("\n".join(lines), no_wrap=True)
    text.highlight_regex(r"pod [A-D]|node \d", "bold")
    text.highlight_regex(r"cni0|flannel\.1|ens33", "bold cyan")
    text.highlight_regex(r"\b\d+\.\d+\.\d+\.\d+(/\d+)?", "green")
    text.highlight_regex(r"[┌┐└┘│─┬┴┼]+", "dim")
    return text


def _node(node: LabNode, kind: Kind, name: str) -> list[str]:
    left, right = node.pods
    body = [
        f"   {left.title:<15}{right.title}",
        f"   {left.address!s:<15}{right.address}",
        "     └───────┬───────┘",
        f"   {BRIDGE:<10}{node.gateway}/24",
        "     │ routed",
        f"   {OVERLAY:<10}{node.vtep_address}/32",
        f"     │       {KINDS[kind]}",
        f"   {UNDERLAY:<10}{node.underlay}",
    ]
    inside = _WIDTH - 2
    return [
        f" {node.title}  {name}".ljust(_WIDTH),
        "┌" + "─" * inside + "┐",
        *(f"│{line:<{inside}}│" for line in body),
        "└────┼".ljust(_WIDTH - 1, "─") + "┘",
    ]
