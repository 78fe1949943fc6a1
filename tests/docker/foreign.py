"""A machine whose engine builds and runs images for ARM, by qemu.

It is in a user namespace, which has a table of foreign programs of its own (Linux 6.7): nothing is registered on this
machine.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ClassVar, Final

from tests.docker import archive
from tests.docker.engine import wait_until
from tests.docker.images import BASE, NO_DEVICES, SUITE, debian, minimal, mirror
from tests.docker.machine import Machine

TABLE: Final = Path("/proc/sys/fs/binfmt_misc")
DEBIAN: Final = {"linux/arm64": "arm64", "linux/arm/v7": "armhf"}
"""Debian's name of each architecture, by Docker's of the platform."""

_ALL_IDS: Final = "0 0 1000000"
"""The users: the same numbers, and not all of them. From all of them runc would take the namespace for the first one,
and try to set rules for devices."""

_SETTINGS: Final = r"""
mount -t binfmt_misc none root/proc/sys/fs/binfmt_misc
register() {  # the first bytes of a program or a library, with class and processor, and which of their bits count
    elf="\x7fELF$2\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00$3\x00"
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf %s ":vxland-$1:M::$elf:$mask:/usr/bin/qemu-$1-static:FP" >root/proc/sys/fs/binfmt_misc/register
}
register aarch64 '\x02' '\xb7'
register arm '\x01' '\x28'
echo '{"features": {"containerd-snapshotter": true}}' >root/etc/docker/daemon.json  # keeps images of several platforms
rm -f root/etc/resolv.conf
echo 'nameserver 10.0.2.3' >root/etc/resolv.conf
"""


class ForeignMachine(Machine):
    """The machine. slirp4netns connects it to the outside."""

    namespaces: ClassVar = ("--user", "--preserve-credentials", *Machine.namespaces)
    overlay: ClassVar = ",userxattr"  # otherwise no folder can be renamed in a user namespace, as dpkg does
    settings: ClassVar = _SETTINGS

    def isolate(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a command in a user and a network namespace of the machine's own."""
        wait = ("unshare", "--user", "sh", "-c", 'read go; exec "$@"', "sh")
        outer = self.spawn(*wait, "unshare", "--net", *argv, stdin=subprocess.PIPE)
        assert outer.stdin is not None
        wait_until(lambda: _user_namespace(outer.pid) != _user_namespace(os.getpid()), "the user namespace is there")
        for kind in ("uid", "gid"):
            Path(f"/proc/{outer.pid}/{kind}_map").write_text(_ALL_IDS)
        outer.stdin.write(b"go\n")
        outer.stdin.close()
        return outer

    def start(self) -> None:
        """Start the engine, and connect it."""
        super().start()
        process = f"/proc/{self.pid}/ns"
        self.spawn(
            *("slirp4netns", "--configure", "--mtu=1500", "--disable-host-loopback", "--netns-type=path"),
            *(f"--userns-path={process}/user", f"{process}/net", "tap0"),
        )
        wait_until(lambda: "tap0" in self.run("ip", "route", "show", "default"), "the way out is there", self.log)


def base_image(machine: ForeignMachine, scratch: Path) -> Path:
    """Return the base image for all platforms in a file, made once.

    No foreign program runs: Debian's essential packages can be set up from outside, by the programs of the machine,
    which is the same Debian.
    """
    made = scratch / f"{SUITE}-base.tar"
    if made.exists():
        return made
    native = debian(scratch, "slim", SUITE)
    layers = {"linux/amd64": scratch / f"{SUITE}-amd64.tar"}
    subprocess.run(("tar", *NO_DEVICES, "-cf", layers["linux/amd64"], "-C", native, "."), check=True)
    machine.run("apt-get", "update", "-qq")
    install = ("apt-get", "install", "-qq", "--no-install-recommends", "mmdebstrap")
    machine.run("env", "DEBIAN_FRONTEND=noninteractive", *install)
    for platform, name in DEBIAN.items():
        print(f"mmdebstrap {SUITE}: {name}", flush=True)  # noqa: T201  (otherwise half a minute without output)
        command = (*minimal(SUITE, Path("/srv/base.tar")), *mirror(), f"--architectures={name}")
        machine.run(*command, "--mode=chrootless", "--skip=check/chrootless,check/qemu,output/dev")
        layers[platform] = scratch / f"{SUITE}-{name}.tar"
        layers[platform].write_bytes((machine.root / "srv" / "base.tar").read_bytes())
        authorities = ("-C", str(native), "./usr/local/share/ca-certificates")
        subprocess.run(("tar", "-rf", layers[platform], *authorities), check=True)
    part = made.with_suffix(".part")
    archive.write(part, f"docker.io/library/{BASE}", layers)
    part.rename(made)
    for layer in layers.values():
        layer.unlink()
    return made


def _user_namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/user").readlink())
