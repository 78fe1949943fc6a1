"""The shipped systemd units; tests/systemd boots them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vxland.config import Settings
from vxland.forwarding.io.underlay_sockets import NAME

UNITS = Path(__file__).parents[2] / "systemd"
MOST_WORKERS, MOST_SOURCE_PORTS, DEVICES = 16, 64, 2


def lines(name: str) -> list[str]:
    """The settings of a unit, without its comments."""
    return [line for line in (UNITS / name).read_text().splitlines() if not line.startswith("#")]


def test_instances_are_like_the_one() -> None:
    """vxland@.service is vxland.service but for the names of files and folders."""
    assert "StateDirectory=vxland-%i" in lines("vxland@.service")
    common = [
        line.replace(" --subnet-file /run/vxland-%i/subnet.env", "")
        .replace(" (%i)", "")
        .replace("%i.yaml", "vxland.yaml")
        .replace("-%i", "")
        for line in lines("vxland@.service")
    ]
    assert common == [
        line.replace("=vxland flannel", "=vxland").replace(" -/run/flannel", "") for line in lines("vxland.service")
    ]


def test_the_store_holds_what_settings_allow() -> None:
    """As many descriptors as the most workers and source ports of two devices make."""
    for setting, most in (("workers", MOST_WORKERS), ("source_ports", MOST_SOURCE_PORTS)):
        section = {"workers": "datapath", "source_ports": "underlay"}[setting]
        Settings.model_validate({section: {setting: most}})
    found = re.search(r"^FileDescriptorStoreMax=(\d+)$", "\n".join(lines("vxland.service")), re.MULTILINE)
    assert found is not None
    assert int(found[1]) >= DEVICES * (2 * MOST_WORKERS + MOST_SOURCE_PORTS)


def setting(name: str, unit: str = "vxland.service") -> str:
    """The value of a setting that the unit has once."""
    (found,) = (line.partition("=")[2] for line in lines(unit) if line.startswith(f"{name}="))
    return found


def test_it_is_tried_for_five_minutes() -> None:
    """The unit gave up after 249 seconds where its comment promised five minutes.

    The pauses alone take as long, however fast a try fails; and it does give up, with tries of three seconds.
    """
    assert setting("RestartSec") == "500ms"
    pause_s, tries, interval_s = 0.5, int(setting("StartLimitBurst")), int(setting("StartLimitIntervalSec"))
    assert tries * pause_s >= 5 * 60
    assert tries * (pause_s + 3) <= interval_s


@pytest.mark.parametrize("unit", ["vxland.service", "vxland@.service"])
def test_what_can_be_written_cannot_be_run(unit: str) -> None:
    """A file that the service wrote, or its own code by /proc/self/mem, could be run; tests/systemd tries it.

    Folders of the unit are mounts of their own, and have to be named. memfd_create is refused by the daemon itself.
    """
    written = {f"/run/{name}" for name in setting("RuntimeDirectory", unit).split()}
    written |= {f"/var/lib/{setting('StateDirectory', unit)}", "/tmp", "/var/tmp"}  # noqa: S108  (PrivateTmp's)
    closed = [line for line in lines(unit) if line.startswith("NoExecPaths=")]
    assert written | {"/dev", "/proc"} <= {path.lstrip("-") for line in closed for path in line[12:].split()}
    assert (setting("ProtectSystem", unit), setting("ReadOnlyPaths", unit)) == ("strict", "/proc")
    assert any("memfd_secret" in line for line in lines(unit) if line.startswith("SystemCallFilter=~"))


def test_the_user_units_are_a_pair() -> None:
    """The service requires the sockets, which have the name that vxland expects, and is tried as long as the other."""
    sockets, service = lines("user/vxland-rootless.socket"), lines("user/vxland-rootless.service")
    assert f"FileDescriptorName={NAME}" in sockets
    assert {"ReusePort=yes", "Requires=vxland-rootless.socket", "After=vxland-rootless.socket"} <= {*sockets, *service}
    shared = (
        "Type",
        "NotifyAccess",
        "Restart",
        "RestartSec",
        "StartLimitBurst",
        "StartLimitIntervalSec",
        "WatchdogSec",
    )
    for name in shared:
        assert setting(name, "user/vxland-rootless.service") == setting(name)
    store = int(setting("FileDescriptorStoreMax", "user/vxland-rootless.service"))
    assert store >= DEVICES * MOST_WORKERS
