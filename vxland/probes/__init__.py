"""Pings of every peer's overlay address, beside the data path: who answers, how fast, also to full packets; or why not.

book.py      whom to ask when, and what answers and silence mean: pure
cause.py     evidence -> the likely cause, in words: pure
examine.py   gathers the evidence about peers that are silent
prober.py    the sockets and the clock
"""

from vxland.probes.diagnose import ProbedTunnel
from vxland.probes.prober import Prober

__all__ = ["ProbedTunnel", "Prober"]
