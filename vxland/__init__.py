"""vxland: a userspace VXLAN data plane for flannel clusters.

The package has two gears: compiled extension modules, and the same sources interpreted. Both lie beside each other, and
Python prefers the extension. `VXLAND_PURE=1` puts a finder in front that knows only sources, so that one installation
can run, and test, either gear.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__version__ = "0.1.0"


class _SourceFinder:
    """Meta path finder that finds the modules of this package as sources only."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, _target: object = None) -> ModuleSpec | None:
        if not name.startswith("vxland.") or path is None:
            return None
        for entry in path:
            spec = FileFinder(entry, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name)
            if spec is not None:
                return spec
        return None


def pure_wanted() -> bool:
    """Return whether the environment asks for the interpreted gear."""
    return os.environ.get("VXLAND_PURE", "") not in {"", "0"}


def select_gear() -> None:
    """Make later imports of `vxland.*` load the gear that the environment asks for."""
    if pure_wanted():
        sys.meta_path.insert(0, _SourceFinder)


select_gear()
