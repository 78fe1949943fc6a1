"""The devices that NetworkManager leaves alone, by its configuration: NetworkManager.conf(5), "Device List Format"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

_RUNNING: Final = "run/NetworkManager"
_FOLDERS: Final = ("usr/lib/NetworkManager/conf.d", "run/NetworkManager/conf.d", "etc/NetworkManager/conf.d")
"""Files of a later folder shadow those of the same name in an earlier one."""

_MAIN: Final = "etc/NetworkManager/NetworkManager.conf"
_MAX_FILES: Final = 200
_MAX_FILE: Final = 64 << 10  # characters
_UNMANAGED: Final = "unmanaged-devices"
_FALSE: Final = frozenset({"0", "false", "no", "off"})


class Device(NamedTuple):
    """An interface and its type, as NetworkManager names it: tun, bridge."""

    name: str
    kind: str


def managed(devices: tuple[Device, ...], root: Path = Path("/")) -> tuple[str, ...]:
    """Return the names of those devices that its configuration does not exclude; none if NetworkManager is not here."""
    if not (root / _RUNNING).is_dir():
        return ()
    excluding = list(_lists(root))
    return tuple(each.name for each in devices if not any(_lists_device(text, each) for text in excluding))


def _lists(root: Path) -> Iterator[str]:
    """Yield the lists of devices that are not managed: that of [keyfile], and one for each such [device] section."""
    from configparser import ConfigParser, Error  # noqa: PLC0415  (most nodes have no NetworkManager)

    unmanaged = ""
    for path in filter(Path.is_file, _files(root)):
        parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",), allow_no_value=True)
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                parser.read_string(file.read(_MAX_FILE))
        except (OSError, Error):
            continue
        for name in parser.sections():
            section = parser[name]
            if name == "keyfile":
                unmanaged = section.get(_UNMANAGED, unmanaged) or ""
                unmanaged += f";{section.get(f'{_UNMANAGED}+', '')}"
            elif name.startswith("device") and (section.get("managed") or "").strip().lower() in _FALSE:
                yield section.get("match-device", "*") or ""
    yield unmanaged


def _files(root: Path) -> Iterator[Path]:
    """Yield the files in the order in which they are read."""
    found: dict[str, Path] = {}
    for folder in _FOLDERS:
        for path in sorted((root / folder).glob("*.conf"))[:_MAX_FILES]:
            found[path.name] = path
    for folder in _FOLDERS[:2]:
        yield from (path for name, path in sorted(found.items()) if path.parent == root / folder)
    yield root / _MAIN
    yield from (path for name, path in sorted(found.items()) if path.parent == root / _FOLDERS[2])


def _lists_device(text: str, device: Device) -> bool:
    """Return whether a list has the device: an entry does, and no `except:`; a list of exceptions has all others."""
    entries = [entry.strip() for entry in re.split(r"[;,]", text) if entry.strip()]
    exceptions = [entry.removeprefix("except:") for entry in entries if entry.startswith("except:")]
    others = [entry for entry in entries if not entry.startswith("except:")]
    if any(_names(entry, device) for entry in exceptions):
        return False
    return any(_names(entry, device) for entry in others) or bool(exceptions and not others)


def _names(entry: str, device: Device) -> bool:
    key, colon, value = entry.partition(":")
    match key:
        case "interface-name" if value.startswith("="):
            return value[1:] == device.name
        case "interface-name":
            return fnmatchcase(device.name, value.removeprefix("~"))
        case "type":
            return value == device.kind
        case "driver":
            return fnmatchcase("tun" if device.kind == "tun" else device.kind, value)
    return not colon and entry in {"*", device.name}
