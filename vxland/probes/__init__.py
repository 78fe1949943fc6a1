"""Reachability of peers: pings of their overlay addresses, and a diagnosis of those that do not answer."""

from vxland.probes.evidence import ProbedTunnel
from vxland.probes.prober import Prober

__all__ = ["ProbedTunnel", "Prober"]
