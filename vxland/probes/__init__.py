"""Reachability of peers: pings, a diagnosis of those that do not answer, tests on request and their responder."""

from vxland.probes.evidence import ProbedTunnel
from vxland.probes.path_test import PathTest
from vxland.probes.prober import Prober
from vxland.probes.responder import Responder

__all__ = ["PathTest", "ProbedTunnel", "Prober", "Responder"]
