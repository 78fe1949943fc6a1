"""A decoded packet for the terminal: one line per header and a hex dump, each header in a colour of its own.

The frame that the pods exchange keeps its colours from hop to hop; what VXLAN puts around it has others.
"""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from vxland.lab.demo.decode import DecodedPacket, EthernetHeader, IcmpHeader, Ipv4Header, Layer, UdpHeader, VxlanHeader
from vxland.lab.demo.layout import ECHOES, ETHERTYPES, PROTOCOLS

_OUTER = {"Ethernet": "bright_blue", "IPv4": "cyan", "UDP": "bright_cyan", "VXLAN": "bold magenta"}
_INNER = {"Ethernet": "green", "IPv4": "bright_green", "UDP": "yellow", "ICMP": "yellow", "payload": "dim"}
_PER_LINE = 16


def styles_of(packet: DecodedPacket) -> list[str]:
    """The colour of each layer."""
    outer = packet.outer_layers
    return [(_OUTER if at < outer else _INNER).get(layer.name, "") for at, layer in enumerate(packet.layers)]


def headers(packet: DecodedPacket) -> Table:
    """One line per header: where it starts, its name, and its fields."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for layer, style in zip(packet.layers, styles_of(packet), strict=True):
        said = Text(say(layer), style)
        said.highlight_regex(r"ttl \d+|VNI \d+", "bold")
        table.add_row(Text(f"0x{layer.at:04x}", "dim"), Text(layer.name, style), said)
    return table


def hexdump(frame: bytes, packet: DecodedPacket) -> Text:
    """The frame as `tcpdump -XX` prints it, each byte in the colour of its header."""
    colour = [""] * len(frame)
    for layer, style in zip(packet.layers, styles_of(packet), strict=True):
        colour[layer.at : layer.at + layer.length] = [style] * layer.length
    lines = []
    for start in range(0, len(frame), _PER_LINE):
        row = range(start, min(start + _PER_LINE, len(frame)))
        line = Text.assemble((f"0x{start:04x}  ", "dim"))
        for at in row:
            line.append(f"{frame[at]:02x}", colour[at])
            line.append(" " if at % 2 else "")
        line.pad_right(_PER_LINE * 5 // 2 + 9 - len(line))
        for at in row:
            line.append(chr(frame[at]) if 0x20 <= frame[at] < 0x7F else ".", colour[at])
        lines.append(line)
    return Text("\n").join(lines)


def say(layer: Layer) -> str:
    """The fields of one header, in tcpdump's words where it has them."""
    match layer.header:
        case EthernetHeader() as found:
            return f"{found.src} > {found.dst}{_unless_known(found.ethertype, ETHERTYPES)}"
        case Ipv4Header() as found:
            flags = "[DF]" if found.dont_fragment else "[none]"
            head = f"{found.src} > {found.dst}, ttl {found.ttl}, id {found.ident}, flags {flags}"
            tail = f"{_unless_known(found.protocol, PROTOCOLS)}{_unless_ok(found.checksum)}"
            return f"{head}, length {found.total_len}{tail}"
        case UdpHeader() as found:
            return f"{found.src_port} > {found.dst_port}, length {found.length}, checksum {_udp_checksum(found)}"
        case VxlanHeader() as found:
            flags = "[I] (0x08)" if found.flags == 0x08 else f"0x{found.flags:02x}"
            reserved = "reserved bits zero" if found.reserved == 0 else f"reserved bits {found.reserved:#x}"
            return f"flags {flags}, VNI {found.vni}, {reserved}"
        case IcmpHeader() as found:
            kind = ECHOES.get(found.kind, f"type {found.kind} code {found.code}")
            return f"{kind}, id {found.ident}, seq {found.seq}{_unless_ok(found.checksum)}"
    return f"{layer.length} bytes"


def _udp_checksum(udp: UdpHeader) -> str:
    if udp.checksum == "unfilled":
        return f"0x{udp.checksum_value:04x} left to the device"
    return f"0x{udp.checksum_value:04x} {udp.checksum}"


def _unless_known(number: int, names: dict[int, str]) -> str:
    """Return the number of an unknown type; empty if the next line names it."""
    return "" if number in names else f", type 0x{number:04x}"


def _unless_ok(checksum: str) -> str:
    return "" if checksum == "ok" else f", checksum {checksum}"
