"""The TAP device that stands in for flannel.1: opened, kept after us, and asked for virtio headers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct

import pytun

from vxland.forwarding.io.fdstore import in_another_netns
from vxland.model.errors import OccupiedError, StartError
from vxland.model.shortage import shortage
from vxland.model.text import link_name
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN

_DEVICE_NODE = "/dev/net/tun"
_TUNSETOFFLOAD = 0x4004_54D0  # linux/if_tun.h
_CSUM = 0x01  # TUN_F_CSUM
_TSO = 0x02 | 0x04 | 0x08  # TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN
_USO = 0x20 | 0x40  # TUN_F_USO4, TUN_F_USO6: only together
_TUNSETVNETHDRSZ = 0x4004_54D8
_TUNSETVNETLE = 0x4004_54DC
_TUNSETPERSIST = 0x4004_54CB
_TUNGETIFF = 0x8004_54D2
_TUNGETDEVNETNS = 0x54E3
_IFREQ = struct.Struct("=16sH22x")
_FLAGS = pytun.IFF_TAP | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR
_DETACHED = 0x0400  # IFF_DETACH_QUEUE

_IN_USE = "stop that process; two cannot share it"


def claim(name: str) -> socket.socket:
    """Hold the device `name` for this process until the socket is closed; OccupiedError where another vxland holds it.

    A TAP of several queues lets anybody attach one more. An abstract socket's name belongs to the network namespace,
    as the device does, and is free again when its process ends, however it ends.
    """
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0vxland/{name}")
    except OSError as exc:
        holder.close()
        raise OccupiedError(f"the TAP {name} is in use by another process", _IN_USE) from exc
    return holder


def mismatch(fd: int, name: str, multi: bool) -> str:
    """Why an inherited descriptor is no queue of the TAP `name`; empty if it is. OSError: not of any device."""
    raw, flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
    if (found := os.fsdecode(raw.rstrip(b"\0"))) != name:
        return f"it is a queue of {link_name(found)}"
    if flags & _FLAGS != _FLAGS or flags & _DETACHED or (multi and not flags & pytun.IFF_MULTI_QUEUE):
        return f"it is a queue of another kind: flags {flags:#06x}"
    return "its device is in another network namespace" if in_another_netns(fd, _TUNGETDEVNETNS) else ""


def abandon(fd: int) -> None:
    """Have the device of a queue vanish with its last queue. One that was deleted already is no error."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _TUNSETPERSIST, 0)


class Tap:
    """One queue of the TAP `name`, non-blocking; created where it does not exist yet.

    A device that is created here goes with its last queue until keep() is called: a start that fails leaves none
    behind. One that was there before stays. `inherited` is the descriptor of a queue that fits; without it, one is
    attached. Every frame has a virtio header before it (wire/virtio.py). Without offloads the kernel hands out frames
    that are cut; superframes may be written all the same. `tso` and `uso`: what it took, and was to; `takes_udp`:
    whether it knows UDP superframes, of Linux 6.2 as USO is.
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
        """Let the device outlive this process, with its addresses, routes and neighbours, as flanneld's does.

        One that was deleted meanwhile is not kept; the next one is.
        """
        try:
            fcntl.ioctl(self.fd, _TUNSETPERSIST, 1)
        except OSError as exc:
            if exc.errno != errno.EBADFD:
                raise

    def close(self) -> None:
        """Detach from the device, which stays if it is kept, or was when it was opened."""
        os.close(self.fd)


def _ask_offload(fd: int, tso: bool, uso: bool) -> tuple[bool, bool, bool]:
    """Ask for those offloads that are wanted and known: whether TSO and USO were taken, and whether USO is known.

    All are asked for first, so that a device that has them already is not changed for a moment.
    """
    for known in (_TSO | _USO, _TSO):
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _CSUM | known)
        except OSError:  # EINVAL: one of them is not known; USO is of Linux 6.2
            continue
        wanted = known & ((_TSO if tso else 0) | (_USO if uso else 0))
        if wanted != known:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _CSUM | wanted)  # checksums stay ours: see _ask_none()
        return wanted & _TSO != 0, wanted & _USO != 0, known & _USO != 0
    return _ask_none(fd)


def _ask_none(fd: int) -> tuple[bool, bool, bool]:
    """Ask for no superframes. Checksums stay ours to finish all the same.

    The kernel would finish them where the sender's virtio header says (skb_checksum_help()), behind its own firewall
    and out of our sight; datapath/partial.py looks first.
    """
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _CSUM)
    return False, False, False


def _open(name: str, multi: bool) -> int:
    """A queue of the device. One that a run with another number of workers left may be of the other kind."""
    try:
        return _attach(name, multi)
    except pytun.Error as exc:
        if _errno(exc) != errno.EINVAL:
            raise _explained(name, exc) from exc
    try:
        fd = _attach(name, not multi)
    except pytun.Error as exc:
        raise _explained(name, exc) from exc
    if not multi:
        return fd  # one queue of several will do
    fcntl.ioctl(fd, _TUNSETPERSIST, 0)  # what is on it comes back with the first reconciliation
    os.close(fd)
    fd = _attach(name, multi)
    fcntl.ioctl(fd, _TUNSETPERSIST, 1)  # as the one before it was
    return fd


def _attach(name: str, multi: bool) -> int:
    device = pytun.TunTapDevice(name, flags=_FLAGS | pytun.IFF_MULTI_QUEUE if multi else _FLAGS)
    try:
        return os.dup(device.fileno())
    finally:
        device.close()


def _errno(exc: OSError) -> int | None:
    return exc.args[0] if exc.args else None


def _explained(name: str, exc: OSError) -> StartError:
    """What a failed open means, and what to do about it."""
    code = _errno(exc)
    if short := shortage(OSError(code, ""), f"the TAP {name}"):
        return short
    if code in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return StartError(
            f"{_DEVICE_NODE} is missing",
            "run 'modprobe tun', or in a container pass the device: --device /dev/net/tun",
        )
    if code in (errno.EPERM, errno.EACCES):
        return StartError(
            f"no permission to open the TAP {name}",
            "run as root or with CAP_NET_ADMIN (in a container: --cap-add NET_ADMIN)",
        )
    if code == errno.EBUSY:
        return OccupiedError(f"the TAP {name} is in use by another process", _IN_USE)
    if code == errno.EINVAL:
        return OccupiedError(
            f"{name} exists and is no TAP of ours",
            f"stop what made it (flanneld?), then 'ip link delete {name}', or set overlay.device",
        )
    return StartError(f"the TAP {name} cannot be opened: {exc}", "see the kernel's log")
