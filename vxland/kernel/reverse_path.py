"""Strict reverse path filtering, RFC 3704: the kernel drops what arrives on another interface than it would leave from.

Kernel: __fib_validate_source, and IN_DEV_RPFILTER: the larger value of `all` and the interface counts; 1 is strict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CONF: Final = Path("/proc/sys/net/ipv4/conf")


def strict_key(interface: str, conf: Path = _CONF) -> str:
    """Return the sysctl to set to 2, which is loose, if the filter is strict on an interface; empty if it is not.

    An interface that does not exist yet will have the value of `default`.
    """
    name = interface if (conf / interface).is_dir() else "default"
    if max(_value(conf / "all"), _value(conf / name)) != 1:
        return ""
    return f"net.ipv4.conf.{name.replace('.', '/')}.rp_filter"


def _value(folder: Path) -> int:
    try:
        return int((folder / "rp_filter").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
