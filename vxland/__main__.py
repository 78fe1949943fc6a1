"""The command `vxland`, and `python -P -m vxland`, which is the same.

Without -P, Python looks for vxland itself in the current directory; for everything else main() keeps it from there.
"""

from __future__ import annotations

import gc
import sys
from types import ModuleType


def main() -> None:
    """Run the command line."""
    gc.disable()  # while everything is imported; cli.main enables it again
    sys.modules["rich"] = None  # type: ignore[assignment]  # structlog would load it, for tracebacks: 4.5 MiB
    import structlog  # noqa: F401, PLC0415  (first of all, without rich)

    del sys.modules["rich"]
    plugins = ModuleType("pydantic.plugin._loader")  # the true one reads every installed package's metadata for plugins
    plugins.get_plugins = tuple  # type: ignore[attr-defined]  # none: vxland uses none, and root should load none
    sys.modules[plugins.__name__] = plugins
    from vxland.cli.main import main as run  # noqa: PLC0415  (after it)

    run()


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current directory: root would run what somebody has put there
    main()
