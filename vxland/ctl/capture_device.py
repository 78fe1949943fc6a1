"""An overlay device in a capture: its records, read from the daemon's stream, and their datagrams, built again."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from vxland.ctl.client import CtlError
from vxland.inspect.records import FrameRecord, RecordError, parse, whole_len
from vxland.model.lease import Address
from vxland.model.text import link_name
from vxland.wire.checksum import complement, sum_bytes

_UDP = 17
_TTL = 64


class CaptureDevice:
    """An overlay device in the daemon's answer, and the numbers and unread bytes of its queues' records."""

    def __init__(self, answer: dict[str, Any], place: int) -> None:
        self.name = link_name(answer["device"])
        self.interface = link_name(answer["interface"])
        self.address: Address = ip_address(answer["address"])
        self.port: int = answer["port"]
        self.place = place
        self._source_ports: list[int] = answer["source_ports"]
        self._numbers: list[int] = answer["numbers"]
        self._rests = [b"" for _ in self._numbers]

    def take(self, queue: int, received: bytes) -> Iterator[tuple[FrameRecord, int]]:
        """Yield the records that are complete by now, each with the number lost before it. CtlError."""
        received = self._rests[queue] + received
        try:
            whole = whole_len(received)
        except RecordError as exc:
            raise CtlError(str(exc)) from exc
        self._rests[queue] = received[whole:]
        for record in parse(received[:whole]):
            lost = record.number - self._numbers[queue]
            self._numbers[queue] = record.number + 1
            yield record, lost

    def datagram(self, record: FrameRecord) -> bytes:
        """Return the record's outer frame. Its headers are rebuilt: the daemon does not have them."""
        payload = record.vxlan + record.frame
        there = record.outer or ip_address(0 if self.address.version == 4 else bytes(16))
        encap = record.direction == "encap"
        src, dst = (self.address, there) if encap else (there, self.address)
        sport = self._source_ports[record.port] if encap else record.port
        length = 8 + len(record.vxlan) + record.length
        udp = b"".join(number.to_bytes(2, "big") for number in (sport, self.port, length, 0)) + payload
        if len(udp) == length:  # otherwise the sum cannot be known
            pseudo = src.packed + dst.packed
            total = complement(sum_bytes(bytearray(pseudo + udp), 0, len(pseudo + udp), _UDP + length)) or 0xFFFF
            udp = udp[:6] + total.to_bytes(2, "big") + udp[8:]
        if self.address.version == 6:
            head = (6 << 28).to_bytes(4, "big") + length.to_bytes(2, "big") + bytes([_UDP, _TTL])
            return bytes(12) + b"\x86\xdd" + head + src.packed + dst.packed + udp
        head = bytes([0x45, 0]) + min(20 + length, 0xFFFF).to_bytes(2, "big") + bytes([0, 0, 0, 0, _TTL, _UDP, 0, 0])
        head += src.packed + dst.packed
        head = head[:10] + complement(sum_bytes(bytearray(head), 0, 20, 0)).to_bytes(2, "big") + head[12:]
        return bytes(12) + b"\x08\x00" + head + udp
