"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# Its deadline of 200 ms an example is a timed assertion, which a busy machine fails.
settings.register_profile("vxland", deadline=None)
settings.load_profile("vxland")
