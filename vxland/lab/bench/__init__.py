"""`vxland bench`: vxland beside the kernel's own vxlan and others, in namespaces of its own, by ratios.

subjects, ovs   what is measured      load, loops   the traffic           machine   CPU time, memory
turn, rounds    the order of it       scale         1,000 leases, 10,000  summary   what the numbers are
report          JSON and Markdown     panels        what plots show       plots, page   PNG and HTML
soak            the long run          cluster       5,000 leases in a real etcd, and their changes
reach           iperf3 alone, from a pod of an overlay that runs already
flood           strangers beside a good stream
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vxland.lab.bench.rounds import Options

__all__ = ["cluster", "flood", "reach", "run", "soak"]


def run(options: Options, output: Path, *, as_json: bool) -> int:
    """Measure, print the tables or one JSON object, and write both with the plots and a page to `output`.

    0 when everything asked for was measured or is not installed here, else 1. StartError when it cannot begin.
    """
    from vxland.lab.bench.runner import play  # noqa: PLC0415  (a spinner or a loop should not load all of this)

    return play(options, output, json_wanted=as_json)


def cluster(leases: int, *, quick: bool, as_json: bool) -> int:
    """One node among so many in a real etcd: start, changes, rest and storm; 0 when all of it was measured, else 1."""
    from vxland.lab.bench.cluster import play  # noqa: PLC0415  (as above)

    return play(leases, quick=quick, json_wanted=as_json)


def flood(strangers: int, rounds: int, seconds: int, *, as_json: bool) -> int:
    """What so many strangers' flood leaves of a TCP stream, by what keeps them out; 0 when all of it was measured."""
    from vxland.lab.bench.flood import play  # noqa: PLC0415  (as above)

    return play(strangers, rounds, seconds, json_wanted=as_json)


def soak(seconds: int, *, as_json: bool) -> int:
    """Mixed traffic both ways for so long; 0 when memory and open files of both daemons stayed flat, else 1."""
    from vxland.lab.bench.soak import play  # noqa: PLC0415  (as above)

    return play(seconds, json_wanted=as_json)


def reach(addresses: Sequence[IPv4Address], seconds: int, *, as_json: bool) -> int:
    """iperf3 to each address, where its server listens already; 0 when all of it was measured, else 1."""
    from vxland.lab.bench.remote import play  # noqa: PLC0415  (as above)

    return play(addresses, seconds, json_wanted=as_json)
