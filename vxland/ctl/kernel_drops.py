"""`vxlandctl trace --live`: packets of the flow that the kernel drops before or behind vxland, as they are dropped."""

from __future__ import annotations

import _thread
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from ipaddress import ip_address

import click

from vxland.fastpath.kernel_drops import KernelDrop, KernelDrops
from vxland.fastpath.libbpf import BpfError
from vxland.inspect.decode import Packet, decode

_PERIOD_S = 0.1
_ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_ECHO_REPLIES = {("icmp", 0), ("icmp6", 129)}
_NEEDS = "it needs the capabilities BPF and PERFMON, libbpf, and Linux 5.17 with CONFIG_DEBUG_INFO_BTF"


@contextmanager
def showing_kernel_drops(src: str, dst: str, *, as_json: bool) -> Iterator[None]:
    """Print the kernel's drops of packets between two addresses during the block, or once why they are not known."""
    ended = threading.Event()
    try:
        drops = KernelDrops(ip_address(src), ip_address(dst))
    except BpfError as exc:
        click.echo(f"vxlandctl: what the kernel drops is not shown: {exc}: {_NEEDS}", err=True)
        yield
        return

    def show() -> None:
        while not ended.wait(_PERIOD_S):
            for drop in drops.read():
                packet = _packet(drop)
                if not _is_delivered(drop, packet):
                    click.echo(json.dumps(_fields(drop, packet)) if as_json else _line(drop, packet))

    def show_all() -> None:
        try:
            show()
        except OSError:  # the reader has seen enough, or its disk is full
            _thread.interrupt_main()

    with closing(drops):
        thread = threading.Thread(target=show_all, name="kernel drops", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _packet(drop: KernelDrop) -> Packet:
    """Decode the IP packet, of which no Ethernet header was copied."""
    return decode(bytes(12) + _ETHERTYPES[drop.packet[0] >> 4] + drop.packet)


def _is_delivered(drop: KernelDrop, packet: Packet) -> bool:
    """Return whether it is a reply to a ping of a raw socket, which got a copy of it.

    The kernel drops its own copy of each echo reply that no ping socket of icmp(7) waits for (net/ipv4/ping.c).
    """
    return drop.reason == "NO_SOCKET" and (packet.proto, packet.icmp_type) in _ECHO_REPLIES


def _line(drop: KernelDrop, packet: Packet) -> str:
    at = datetime.fromtimestamp(drop.time_ns // 10**9).astimezone().strftime("%H:%M:%S")
    where = f" at {drop.device}" if drop.device else ""
    elsewhere = "" if drop.is_here or not drop.device else ", in another network namespace"
    layer = ", as a datagram on the underlay" if drop.is_datagram else ""
    return (
        f"{at}.{drop.time_ns % 10**9:09} {drop.device or '-'} {packet}: "
        f"dropped by the kernel{where}{elsewhere}{layer}: {drop.reason}"
    )


def _fields(drop: KernelDrop, packet: Packet) -> dict[str, object]:
    return {
        "time_ns": drop.time_ns,
        "time_us": drop.time_ns // 1000,
        "device": drop.device,
        "here": drop.is_here,
        "verdict": "kernel_drop",
        "kernel_reason": drop.reason,
        "is_datagram": drop.is_datagram,
        "src": str(packet.src),
        "dst": str(packet.dst),
        "proto": packet.proto,
        "sport": packet.sport,
        "dport": packet.dport,
    }
