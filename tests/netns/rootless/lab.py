"""Three nodes of a flannel cluster: two of users without root, and one of root's with the kernel's vxlan.

      host a                                   host b                                   node c
     +----------------------------------+     +----------------------------------+     +---------------------------+
     |  UDP sockets of user 64001       |     |  UDP sockets of user 64002       |     |  flannel.1  10.244.2.0/32 |
     |  e0     192.168.111.128 ---------+-br0-+- e0     192.168.111.129 ---------+-br0-+- e0     192.168.111.130   |
     |  +----------------------------+  |     |  +----------------------------+  |     |  cni0       10.244.2.1/24 |
     |  | flannel.1, by vxland       |  |     |  | flannel.1, by vxland       |  |     +----|----------------------+
     |  | cni0       10.244.0.1/24   |  |     |  | cni0       10.244.1.1/24   |  |        its pod 10.244.2.19
     |  +----|-----------------------+  |     |  +----|-----------------------+  |
     |     its pod 10.244.0.19          |     |     its pod 10.244.1.19          |
     +----------------------------------+     +----------------------------------+

The inner boxes and the pods are network namespaces of a user namespace that the user made. Root makes the hosts, node c
and the bridge between them, and nothing else. It names the users' namespaces, to send traffic through them. The
underlay may be IPv6 as well, with addresses as in interop/lab.py.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.netns.interop.confinement import python
from tests.netns.interop.daemon import Gear
from tests.netns.interop.lab import PORT, UNDERLAY_MTU, Family, KernelVtep, Node, Vxland
from tests.netns.interop.manager import Manager
from tests.netns.interop.ns import Ns, wait_until
from vxland.forwarding.io.udp import RECEIVE_BUFFER
from vxland.lab import shell

FIRST_UID: Final = 64001
SENDERS: Final = (61001, 61002, 61003)
MACS: Final = ("ce:5f:f6:73:cf:b9", "3a:87:cf:81:6a:ce")

_BIND: Final = 'mount --bind "$1" /dev/net/tun && shift && exec "$@"'
# As systemd makes those of a socket unit.
_MAKE: Final = """\
import socket, sys
made = []
for port in sys.argv[2:]:
    sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((sys.argv[1], int(port)))
    made.append(sock)
with socket.socket(fileno=0) as channel:
    socket.send_fds(channel, [b"."], [sock.fileno() for sock in made])
"""

_numbers = itertools.count(1)


class UserNode(Node):
    """A host, and a user's namespaces in it. `tun` is a device node that every user may open."""

    def __init__(self, name: str, number: int, underlay: Family, tun: Path) -> None:
        super().__init__(name, number, underlay)
        self.uid = FIRST_UID + number
        self.host = Ns(f"{name}-{self.letter}-host")
        self._tun = tun
        self._holders: list[subprocess.Popen[bytes]] = []

    def build(self) -> None:
        """Make the user's namespaces, with bridge and pod; the host and its e0 exist."""
        self.host.batch(
            f"link set e0 mtu {UNDERLAY_MTU} up",
            f"addr add {self.underlay[4]}/24 dev e0",
            f"addr add {self.underlay[6]}/64 dev e0 nodad",
        )
        node = self._hold(self.ns, self.as_user("unshare", "--user", "--map-root-user", "--net", "sleep", "infinity"))
        pod = self._hold(self.pod_ns, self.inside(node, "unshare", "--net", "sleep", "infinity"))
        self._batch(
            node,
            "link set lo up",
            f"link add cni0 mtu {self.mtu} type bridge",
            f"addr add {self.gateway[4]}/24 dev cni0",
            f"addr add {self.gateway[6]}/64 dev cni0 nodad",
            "link set cni0 up",
            f"link add pod mtu {self.mtu} type veth peer name eth0 netns {pod}",
            "link set pod master cni0 up",
        )
        self._batch(
            pod,
            "link set lo up",
            f"link set eth0 mtu {self.mtu} up",
            f"addr add {self.pod[4]}/24 dev eth0",
            f"addr add {self.pod[6]}/64 dev eth0 nodad",
            f"route add default via {self.gateway[4]}",
            f"route add ::/0 via {self.gateway[6]}",
        )
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            shell.run(*self.inside(node, "sh", "-c", f"echo 1 >/proc/sys/net/{key}"))

    def delete(self) -> None:
        """End the user's processes, and remove the host."""
        for ns in (self.pod_ns, self.ns):
            ns.delete()
        for holder in self._holders:
            holder.kill()
            holder.wait()
        self.host.delete()

    def as_user(self, *command: str) -> tuple[str, ...]:
        """Return a command that the user runs on the host, without a capability."""
        user = ("--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups", "--no-new-privs")
        bound = ("sh", "-c", _BIND, "sh", str(self._tun))
        return (*shell.exec_in(self.host.name, *bound), "setpriv", *user, *command)

    def inside(self, process: int, *command: str) -> tuple[str, ...]:
        """Return a command that the user runs in the namespaces of its process."""
        return self.as_user("nsenter", "--preserve-credentials", "--user", "--net", "--target", str(process), *command)

    @property
    def process(self) -> int:
        """The id of the process whose namespaces are the node's."""
        return self._holders[0].pid

    def open_sockets(self, *ports: int) -> list[int]:
        """Return descriptors of UDP sockets that the user has bound on the host."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            made = self.as_user("/usr/bin/python3", "-c", _MAKE, self.vtep, *map(str, ports))
            subprocess.run(made, stdin=theirs.fileno(), check=True)
            _, fds, _, _ = socket.recv_fds(ours, 1, len(ports))
        return list(fds)

    def _hold(self, ns: Ns, command: tuple[str, ...]) -> int:
        """Start a command that makes a network namespace; name that, and return the process that holds it."""
        others = [Path("/proc/self"), *(Path(f"/proc/{each.pid}") for each in self._holders)]
        known = {(each / "ns" / "net").stat().st_ino for each in others}
        known.add(Path(f"/run/netns/{self.host.name}").stat().st_ino)
        holder = subprocess.Popen(command, start_new_session=True)
        self._holders.append(holder)
        made = Path(f"/proc/{holder.pid}/ns/net")
        wait_until(lambda: made.stat().st_ino not in known, f"{ns.name} is there")
        shell.run("ip", "netns", "attach", ns.name, str(holder.pid))
        return holder.pid

    def _batch(self, process: int, *lines: str) -> None:
        command = self.inside(process, "ip", "-batch", "-")
        done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class Rootless(Vxland):
    """vxland of a user, in the user's namespaces, with sockets of the host that a manager passes."""

    def __init__(self, node: UserNode, directory: Path, gear: Gear, packages: Path) -> None:
        super().__init__(node, directory, gear)
        self.user = node
        self._packages = packages
        os.chown(self.directory, node.uid, node.uid)
        self.settings["underlay"] = {"sockets": "inherited", "address": node.vtep, "mtu": UNDERLAY_MTU}
        self.settings["overlay"]["mac"] = MACS[node.number]
        self.manager = self.keeper = Manager(self.directory)
        (self.directory / "notify").chmod(0o666)

    def vxland(self, *words: str) -> tuple[str, ...]:
        """Return a vxland command that the user runs in its namespaces."""
        gear = ("env", f"VXLAND_PURE={int(self.gear == 'interpreted')}")
        bounded = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw")  # as vxland-rootless.service
        return self.user.inside(self.user.process, *bounded, *gear, *python(self._packages), *self.program, *words)

    def ask(self, *words: str) -> str:
        """Return the output of `vxlandctl`, which the user runs on the host."""
        ctl = (*python(self._packages), "-m", "vxland.ctl", "--socket", str(self.settings["control"]["socket"]))
        return shell.run(*self.user.as_user(*ctl, *words))

    def status(self) -> dict[str, Any]:
        """Return `vxlandctl status --json`."""
        found: dict[str, Any] = json.loads(self.ask("status", "--json"))
        return found

    def pass_sockets(self, workers: int) -> None:
        """Have the manager pass sockets for so many workers."""
        for fd in self.user.open_sockets(*[PORT] * workers, *SENDERS):
            self.keeper.keep("underlay", fd)
        with socket.socket(fileno=os.dup(self.keeper.kept[0][1])) as receiver:  # as root's ReceiveBuffer= does
            receiver.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BUFFER)  # SO_RCVBUFFORCE

    def close(self) -> None:
        """Stop the daemon, and close its sockets."""
        try:
            self.stop()
        finally:
            self.keeper.close()


class RootlessLab:
    """The nodes a and b with vxland, and node c with the kernel's device."""

    def __init__(self, place: Path, packages: Path, gear: Gear, underlay: Family) -> None:
        name = f"vxr-{os.getpid()}-{next(_numbers)}"
        self.wire = Ns(f"{name}-wire")
        self.a, self.b = (UserNode(name, number, underlay, place / "tun") for number in (0, 1))
        self.c = Node(name, 2, underlay)
        self.kernel = KernelVtep(self.c)
        folder = place / gear
        folder.mkdir()
        self.daemons = [Rootless(node, folder, gear, packages) for node in (self.a, self.b)]

    def up(self) -> None:
        """Build everything, and start both daemons."""
        for ns in (self.wire, self.a.host, self.b.host, self.c.ns, self.c.pod_ns):
            ns.create()
        self.wire.batch("link add br0 type bridge", "link set br0 up")
        for ns in (self.a.host, self.b.host, self.c.ns):
            self.wire.batch(
                f"link add {ns.name[-6:]} type veth peer name e0 netns {ns.name}",
                f"link set {ns.name[-6:]} master br0 up",
            )
        for node in (self.a, self.b, self.c):
            node.build()
        self.kernel.create()
        for daemon, other in zip(self.daemons, (1, 0), strict=True):
            daemon.add_peer(self.daemons[other].node, MACS[other])
            daemon.add_peer(self.c, self.c.mac())
            daemon.pass_sockets(2 if daemon.gear == "compiled" else 1)
            daemon.start()
            self.kernel.add_peer(daemon.node, MACS[daemon.node.number])

    def down(self) -> None:
        """Stop the daemons, and remove every namespace."""
        try:
            for daemon in self.daemons:
                daemon.close()
        finally:
            for node in (self.a, self.b):
                node.delete()
            for ns in (self.c.pod_ns, self.c.ns, self.wire):
                ns.delete()
