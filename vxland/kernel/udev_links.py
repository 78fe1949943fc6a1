"""The policy by which udev gives a new device a MAC: the first .link file that matches has it, systemd.link(5).

Since systemd 242 the file that it ships, 99-default.link, matches TAPs too. udev acts on a device once, after it was
made, and leaves a MAC that a program has set before. So it is a race between both (flannel issue 1155).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

_FOLDERS: Final = tuple(
    Path(f"{place}/systemd/network") for place in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
"""The first one that has a file of a name takes precedence."""

_RUNNING: Final = Path("/run/udev/control")
_MAX_FILES: Final = 500
_MAX_FILE: Final = 64 << 10  # bytes
_TAP: Final = {"Type": "ether", "Driver": "tun", "Kind": "tun"}
"""Keys of [Match] that a TAP answers to, besides its name; it has nothing that the others ask for."""


@dataclass(frozen=True, slots=True)
class MacPolicy:
    """A policy, in lower case, and the file that has it."""

    policy: str
    path: Path


def mac_policy(device: str, folders: Sequence[Path] = _FOLDERS, running: Path = _RUNNING) -> MacPolicy | None:
    """Return the policy for a TAP of this name if udev would change its MAC; None if it would not, or does not run."""
    if not running.exists():
        return None
    for path in _files(folders, "*.link"):
        match, link = _sections(path, folders)
        if not match and not link:  # an empty file, or a link to /dev/null: it masks others of its name, and is skipped
            continue
        if _matches(match, device):
            policy = link.get("MACAddressPolicy", [""])[-1].strip().lower()
            return MacPolicy(policy, path) if policy in {"persistent", "random"} else None
    return None


def _files(folders: Sequence[Path], pattern: str) -> Iterator[Path]:
    """Yield the files of a pattern by name, each from the first folder that has it."""
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            for path in sorted(folder.glob(pattern))[:_MAX_FILES]:
                found.setdefault(path.name, path)
        except OSError:
            continue
    yield from (found[name] for name in sorted(found))


def _sections(path: Path, folders: Sequence[Path]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return [Match] and [Link] of a file with its drop-ins: the values of each key. An empty value resets a key."""
    sections: dict[str, dict[str, list[str]]] = {"Match": {}, "Link": {}}
    for each in (path, *_files(folders, f"{path.name}.d/*.conf")):
        section: dict[str, list[str]] = {}
        for line in _lines(each):
            if line.startswith("["):
                section = sections.get(line.strip("[]"), {})
                continue
            key, _, value = (part.strip() for part in line.partition("="))
            if value:
                section.setdefault(key, []).append(value)
            else:
                section.pop(key, None)
    return sections["Match"], sections["Link"]


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():  # a pipe would be waited for
        return
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE).decode(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        if (stripped := line.strip()) and stripped[0] not in "#;":
            yield stripped


def _matches(match: dict[str, list[str]], device: str) -> bool:
    """Return whether [Match] holds for a TAP; without any key it does, as before systemd 243."""
    for key, values in match.items():
        patterns = " ".join(values).split()
        if key == "OriginalName":
            mine = device
        elif key in _TAP:
            mine = _TAP[key]
        else:  # of hardware, such as MACAddress=, Path= and Property=
            return False
        negated = bool(patterns) and patterns[0].startswith("!")
        if any(fnmatchcase(mine, pattern.lstrip("!")) for pattern in patterns) is negated:
            return False
    return True
