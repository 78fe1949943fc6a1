"""The longest wait of a test for something that happens. It ends a hang, and judges no speed: machines are busy."""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 60.0
