"""The topology as a picture: boxes and lines in drawing units, which the page's template turns into SVG.

The same nodes are drawn twice: side by side, and for narrow screens one above the other. There the lower node is upside
down, so that in both pictures the underlay lies between the nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vxland.lab.demo.drawing import KINDS
from vxland.lab.etcd import PORT as PORT_OF_ETCD
from vxland.lab.topology import (
    BRIDGE,
    OVERLAY,
    OVERLAY_MTU,
    PORT,
    UNDERLAY,
    UNDERLAY_MTU,
    VNI,
    Kind,
    LabNode,
    LabRegistry,
    Pod,
)

_WIDTH, _PAD, _HEAD, _GAP = 420, 20, 50, 30  # of a node: width, inner margin, title, space between rows
_POD, _BAR = 64, 52  # heights of a pod and of a device
_BETWEEN, _WIRE = 60, 56  # between nodes side by side, and the height of the underlay
_ETCD = 130  # width of its box, taken from the underlay device's
_MARGIN = 2  # keeps strokes inside the picture


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with up to two lines of text, each with a left and a right part."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str
    right: str = ""
    below: str = ""
    below_right: str = ""
    hop: int = 0  # number of the capture taken here


@dataclass(frozen=True, slots=True)
class Line:
    """A polyline; `kind` shows whether the walk-through's packet takes it."""

    points: str
    kind: str


@dataclass(frozen=True, slots=True)
class Picture:
    """The whole picture, back to front."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    wire: tuple[float, float, str]
    """Centre of the underlay's label, and the label."""


@dataclass(frozen=True, slots=True)
class PicturePlan:
    """Input of a picture; `hops` are the numbers of the captures by node or pod and device."""

    nodes: tuple[LabNode, LabNode]
    kinds: tuple[Kind, Kind]
    registry: LabRegistry
    namespaces: Mapping[str, str]
    hops: Mapping[tuple[str, str], int]


def wide(plan: PicturePlan) -> Picture:
    """Draw node 2 to the right of node 1, the underlay below both."""
    (left, left_route), (right, right_route) = (
        _node(plan, number, _MARGIN + number * (_WIDTH + _BETWEEN), _MARGIN, upside_down=False) for number in (0, 1)
    )
    bottom = left[0].y + left[0].height + _WIRE / 2
    wire = [left_route[-1], (left_route[-1][0], bottom), (right_route[-1][0], bottom), right_route[-1]]
    width, middle = 2 * _WIDTH + _BETWEEN, (left_route[-1][0] + right_route[-1][0]) / 2
    return _picture(width, bottom + _WIRE / 2, left + right, (left_route, right_route, wire), (middle, bottom))


def tall(plan: PicturePlan) -> Picture:
    """Draw node 2 below node 1, the underlay between them."""
    upper, upper_route = _node(plan, 0, _MARGIN, _MARGIN, upside_down=False)
    top = _MARGIN + upper[0].height + _WIRE
    lower, lower_route = _node(plan, 1, _MARGIN, top, upside_down=True)
    # From below the upper node to above the title of the lower one, whose first device is further down.
    wire = [upper_route[-1], lower_route[-1]]
    height = lower[0].y + lower[0].height
    return _picture(_WIDTH, height, upper + lower, (upper_route, lower_route, wire), (_WIDTH / 2, top - _WIRE / 2))


def _picture(
    width: float,
    height: float,
    boxes: list[Box],
    routes: Sequence[list[tuple[float, float]]],
    middle: tuple[float, float],
) -> Picture:
    bridges = [box for box in boxes if box.title == BRIDGE]
    spurs = [
        [(_middle(pod), pod.y + pod.height / 2), (_middle(pod), bridge.y + bridge.height / 2)]
        for bridge, pods in zip(bridges, _pods(boxes), strict=True)
        for pod in pods[1:]
    ]
    lines = [Line(_points(spur), "link") for spur in spurs] + [Line(_points(route), "route") for route in routes]
    words = f"MTU {UNDERLAY_MTU}, VNI {VNI} over UDP {PORT}"
    return Picture(width + 2 * _MARGIN, height + _MARGIN, tuple(boxes), tuple(lines), (*middle, words))


def _pods(boxes: list[Box]) -> list[list[Box]]:
    pods = [box for box in boxes if box.kind == "pod"]
    return [pods[:2], pods[2:]]


def _node(
    plan: PicturePlan, number: int, x: float, y: float, *, upside_down: bool
) -> tuple[list[Box], list[tuple[float, float]]]:
    """Return the boxes of one node, its own first, and the packet's route from the first pod to the underlay's end."""
    node, kind = plan.nodes[number], plan.kinds[number]
    rows = [_POD, _BAR, _BAR, _BAR]
    tops, at = [], y + _HEAD
    for height in reversed(rows) if upside_down else rows:
        tops.append(at)
        at += height + _GAP
    pods_y, bridge_y, overlay_y, underlay_y = reversed(tops) if upside_down else tops
    inside, left = _WIDTH - 2 * _PAD, x + _PAD
    half = (inside - _PAD) / 2
    with_etcd = plan.registry == "etcd" and number == 0

    def device(top: float, name: str, right: str, below: str, mac: object, width: float = inside) -> Box:
        hop = plan.hops.get((node.title, name), 0)
        return Box(left, top, width, _BAR, "device", name, right, below, str(mac), hop)

    bridge = device(bridge_y, BRIDGE, f"{node.gateway}/{node.subnet.prefixlen}", "bridge", node.bridge_mac)
    overlay = device(overlay_y, OVERLAY, f"{node.vtep_address}/32", KINDS[kind], node.vtep_mac)
    room = inside - (_ETCD + _PAD) * with_etcd
    underlay = device(
        underlay_y, UNDERLAY, str(node.underlay), "" if with_etcd else "underlay", node.underlay_mac, room
    )
    outline = Box(x, y, _WIDTH, at - _GAP + _PAD - y, "node", node.title, plan.namespaces[node.title])
    pods = [_pod(plan, pod, left + place * (half + _PAD), pods_y, half) for place, pod in enumerate(node.pods)]
    store = Box(left + room + _PAD, underlay_y, _ETCD, _BAR, "store", "etcd", f":{PORT_OF_ETCD}", "leases of both")
    edge = y if upside_down else outline.y + outline.height
    route = [(_middle(pods[0]), pods[0].y + _POD / 2), (_middle(pods[0]), edge)]
    return [outline, *pods, bridge, overlay, underlay, *([store] if with_etcd else [])], route


def _pod(plan: PicturePlan, pod: Pod, x: float, y: float, width: float) -> Box:
    hop = plan.hops.get((pod.title, "eth0"), 0)
    return Box(x, y, width, _POD, "pod", pod.title, pod.port, str(pod.address), "", hop)


def _middle(box: Box) -> float:
    return box.x + box.width / 2


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def in_words(plan: PicturePlan) -> str:
    """Return the picture's contents in words, for readers who cannot see it."""
    return " ".join(
        f"{node.title.capitalize()}, {node.underlay} on {UNDERLAY}: "
        f"{' and '.join(f'{pod.title} {pod.address}' for pod in node.pods)} on {BRIDGE} {node.gateway}, routed to "
        f"{OVERLAY} {node.vtep_address}, a {KINDS[kind]}, MTU {OVERLAY_MTU}."
        for node, kind in zip(plan.nodes, plan.kinds, strict=True)
    )
