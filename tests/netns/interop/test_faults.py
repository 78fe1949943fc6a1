"""A folder for files that is full or read-only, in the daemon's mount namespace: one line has its name and the remedy.

pod a - cni0 - flannel.1 (vxland) ===== e0 of an empty namespace
"""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path

import pytest

from .daemon import plain
from .lab import Vxland

pytestmark = pytest.mark.netns

FULL = "size=4k"
NO_INODES = "nr_inodes=1"  # the root directory uses it
PLACES = {FULL: errno.ENOSPC, NO_INODES: errno.ENOSPC, "ro": errno.EROFS}


class Mounted:
    """Starts a daemon with a tmpfs at `place`, with the mount options `how`; a full one is full of other files."""

    def __init__(self, place: Path, how: str) -> None:
        self.kept: list[tuple[str, int]] = []
        place.mkdir()
        where = shlex.quote(str(place))
        fill = f"dd if=/dev/zero of={where}/other bs=4k count=1 status=none" if how == FULL else "true"
        self._script = f'mount -t tmpfs -o {how} none {where} && {fill} && exec "$@"'

    def launcher(self) -> tuple[str, ...]:
        """Return the words before the command line."""
        return ("unshare", "--mount", "sh", "-c", self._script, "sh")

    def environment(self) -> dict[str, str]:
        """Return no additional environment."""
        return {}


@pytest.mark.parametrize("how", PLACES)
def test_no_space_for_subnet_env(lone: Vxland, tmp_path: Path, how: str) -> None:
    """Without it the CNI plugin attaches no pod; the daemon ends, as flanneld does."""
    lone.subnet_file = tmp_path / "place" / "subnet.env"
    lone.manager = Mounted(tmp_path / "place", how)
    lone.launch()
    assert lone.wait() == 1
    (line,) = (line for line in plain(lone.said()).splitlines() if line.startswith("vxland: "))
    assert line == (
        f"vxland: {lone.subnet_file} cannot be written: {os.strerror(PLACES[how])}; "
        "make its directory writable, with room in it, or name another file with --subnet-file"
    )
    assert "Traceback" not in lone.said()


@pytest.mark.parametrize("how", [NO_INODES, "ro"])
def test_no_space_for_the_control_socket(lone: Vxland, tmp_path: Path, how: str) -> None:
    """The node forwards without one, and logs it once."""
    path = tmp_path / "place" / "control.sock"
    lone.settings["control"]["socket"] = str(path)
    lone.manager = Mounted(tmp_path / "place", how)
    lone.start()
    (event,) = lone.events("control_off")
    assert (event["level"], event["cause"], event["remedy"]) == (
        "error",
        f"control.socket: {path} cannot be made: {os.strerror(PLACES[how])}",
        "make its directory writable, with room in it, or choose another control.socket",
    )
    assert lone.stop() == 0
