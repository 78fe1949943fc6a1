"""The TAP device that replaces flannel's vxlan device: opened with virtio headers, and kept after this process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct

from vxland.forwarding.io.fdstore import in_another_netns
from vxland.model.errors import OccupiedError, StartError
from vxland.model.shortage import shortage
from vxland.model.text import link_name
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN

_DEVICE_NODE = "/dev/net/tun"
_TUNSETIFF = 0x4004_54CA  # linux/if_tun.h
_TUNSETOFFLOAD = 0x4004_54D0
_CSUM = 0x01  # TUN_F_CSUM
_TSO = 0x02 | 0x04 | 0x08  # TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN
_USO = 0x20 | 0x40  # TUN_F_USO4, TUN_F_USO6: only together
_TUNSETVNETHDRSZ = 0x4004_54D8
_TUNSETVNETLE = 0x4004_54DC
_TUNSETPERSIST = 0x4004_54CB
_TUNGETFEATURES = 0x8004_54CF
_TUNGETIFF = 0x8004_54D2
_TUNGETDEVNETNS = 0x54E3
_IFREQ = struct.Struct("=16sH22x")
_FLAGS = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
_MULTI_QUEUE = 0x0100  # IFF_MULTI_QUEUE
_DETACHED = 0x0400  # IFF_DETACH_QUEUE

_REMOVED = f"remove it, then 'mknod {_DEVICE_NODE} c 10 200'"
_IN_USE = "stop that process; two cannot share it"


def claim(name: str) -> socket.socket:
    """Claim the device `name` until the socket is closed. Raises OccupiedError.

    Any process may attach a queue to a TAP of several queues. The name of an abstract socket belongs to the network
    namespace, as the device does, and is free again when its process ends, however it ends.
    """
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0vxland/{name}")
    except OSError as exc:
        holder.close()
        raise OccupiedError(f"the TAP {name} is in use by another process", _IN_USE) from exc
    return holder


def is_claimed(name: str) -> bool:
    """Return whether a process of this network namespace has claimed the device: a vxland runs it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(f"\0vxland/{name}") == 0


def unusable(name: str) -> StartError | None:
    """Return the error that the TAP `name` cannot be opened with, as far as the device node shows; None: no error."""
    try:
        fd = os.open(_DEVICE_NODE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _TUNGETFEATURES, bytes(4))
        finally:
            os.close(fd)
    except OSError as exc:
        return _explained(name, exc)
    return None


def foreign(name: str) -> OccupiedError:
    """Return the error for a device of the name that is no TAP."""
    return OccupiedError(
        f"{name} exists and is no TAP of ours",
        f"stop what made it (flanneld?), then 'ip link delete {name}', or set overlay.device",
    )


def mismatch(fd: int, name: str, multi: bool) -> str:
    """Return why an inherited descriptor is not a queue of the TAP `name`, "" if it is. Raises OSError."""
    raw, flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
    if (found := os.fsdecode(raw.rstrip(b"\0"))) != name:
        return f"it is a queue of {link_name(found)}"
    if flags & _FLAGS != _FLAGS or flags & _DETACHED or (multi and not flags & _MULTI_QUEUE):
        return f"it is a queue of another kind: flags {flags:#06x}"
    return "its device is in another network namespace" if in_another_netns(fd, _TUNGETDEVNETNS) else ""


def abandon(fd: int) -> None:
    """Let the device of a queue end with its last queue. A device that is already deleted is no error."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _TUNSETPERSIST, 0)


class Tap:
    """One non-blocking queue of the TAP `name`, which is created if it does not exist.

    A device created here ends with its last queue until keep() is called, so a failed start leaves none behind. A
    device that existed before stays. `inherited` is the descriptor of a queue that fits; without it, one is attached.
    Every frame has a virtio header before it (wire/virtio.py). Without offloads the kernel segments frames before
    vxland reads them; superframes may be written in any case. `tso` and `uso`: requested, and as attributes in use;
    `takes_udp`: the device has UDP superframes, since Linux 6.2 as USO.
    """

    def __init__(
        self,
        name: str,
        offload: bool,
        multi: bool = False,
        inherited: int | None = None,
        *,
        tso: bool = True,
        uso: bool = True,
    ) -> None:
        self.name = name
        self.fd = _open(name, multi) if inherited is None else inherited
        try:
            for request, value in ((_TUNSETVNETHDRSZ, VIRTIO_LEN), (_TUNSETVNETLE, 1)):
                fcntl.ioctl(self.fd, request, struct.pack("=i", value))
            self.tso, self.uso, self.takes_udp = _ask_offload(self.fd, tso, uso) if offload else _ask_none(self.fd)
            os.set_blocking(self.fd, False)
        except BaseException as exc:
            os.close(self.fd)
            if isinstance(exc, OSError) and exc.errno == errno.EBADFD:
                raise OccupiedError(f"the TAP {name} was deleted while it was opened", "find out who does it") from exc
            raise

    def keep(self) -> None:
        """Let the device outlive this process with its addresses, routes and neighbours, as flanneld's does.

        A device that was deleted meanwhile is ignored.
        """
        try:
            fcntl.ioctl(self.fd, _TUNSETPERSIST, 1)
        except OSError as exc:
            if exc.errno != errno.EBADFD:
                raise

    def close(self) -> None:
        """Detach from the device; it stays after keep(), or if it was persistent before."""
        os.close(self.fd)


def _ask_offload(fd: int, tso: bool, uso: bool) -> tuple[bool, bool, bool]:
    """Request the wanted offloads; return whether TSO and USO are in use, and whether the kernel has USO.

    All are requested first, so that a device that has them already does not change for a moment.
    """
    for known in (_TSO | _USO, _TSO):
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _CSUM | known)
        except OSError:  # EINVAL: the kernel lacks one of them; USO came with Linux 6.2
            continue
        wanted = known & ((_TSO if tso else 0) | (_USO if uso else 0))
        if wanted != known:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _CSUM | wanted)  # vxland finishes checksums: see _ask_none()
        return wanted & _TSO != 0, wanted & _USO != 0, known & _USO != 0
    return _ask_none(fd)


def _ask_none(fd: int) -> tuple[bool, bool, bool]:
    """Request no superframes, but partial checksums all the same: vxland finishes them.

    The kernel would finish them wherever the sender's virtio header says (skb_checksum_help()), after its firewall;
    datapath/partial.py checks the packet first.
    """
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _CSUM)
    return False, False, False


def _open(name: str, multi: bool) -> int:
    """Return a queue of the device. A device from a run with another number of workers may be of the other kind."""
    try:
        return _attach(name, multi)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise _explained(name, exc) from exc
    try:
        fd = _attach(name, not multi)
    except OSError as exc:
        raise _explained(name, exc) from exc
    if not multi:
        return fd  # one queue of several is enough
    fcntl.ioctl(fd, _TUNSETPERSIST, 0)  # the first reconciliation restores its routes and addresses
    os.close(fd)
    fd = _attach(name, multi)
    fcntl.ioctl(fd, _TUNSETPERSIST, 1)  # as the previous one
    return fd


def _attach(name: str, multi: bool) -> int:
    fd = os.open(_DEVICE_NODE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(os.fsencode(name), _FLAGS | _MULTI_QUEUE if multi else _FLAGS))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _explained(name: str, exc: OSError) -> StartError:
    """Return the error for a failed open, with a remedy."""
    code = exc.errno
    if short := shortage(exc, f"the TAP {name}"):
        return short
    if code in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return StartError(
            f"{_DEVICE_NODE} is missing",
            "run 'modprobe tun', or in a container pass the device: --device /dev/net/tun",
        )
    if code in (errno.ENOTTY, errno.EISDIR):
        return StartError(f"{_DEVICE_NODE} is no TUN device", f"{_REMOVED}; in a container pass that of the host")
    if code in (errno.EPERM, errno.EACCES) and exc.filename is not None:  # of a device cgroup, or mounted with nodev
        return StartError(
            f"no permission to open {_DEVICE_NODE}",
            "run as root; in a container pass the device, and do not make it there: --device /dev/net/tun",
        )
    if code in (errno.EPERM, errno.EACCES):
        return StartError(
            f"no permission to open the TAP {name}",
            "run as root or with CAP_NET_ADMIN (in a container: --cap-add NET_ADMIN)",
        )
    if code == errno.EBUSY:
        return OccupiedError(f"the TAP {name} is in use by another process", _IN_USE)
    if code == errno.EINVAL:
        return foreign(name)
    return StartError(f"the TAP {name} cannot be opened: {exc}", "see the kernel's log")
