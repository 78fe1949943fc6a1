"""`vxlandctl capture`: views of records, lost records, order of time, and pcapng files."""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgReader

from tests.fabric import HERE, Lone, lone_node, run
from tests.frames import BROADCAST, OWN_MAC, ethernet, ping, pong, vxlan
from vxland.ctl.capture import Session, of_flow
from vxland.ctl.capture_device import CaptureDevice
from vxland.ctl.cli import main
from vxland.ctl.client import CtlError
from vxland.forwarding.io.ring import Mode
from vxland.forwarding.telemetry import DeviceTelemetry
from vxland.inspect.filter import parse as parse_filter
from vxland.wire.record import HDR_LEN, put_header

GARBAGE = ethernet(BROADCAST, OWN_MAC, 0x88B5, bytes(46))
RUNT = b"short"
ENCAP, DECAP = 0, 1  # in a record
NAMES = {"127.0.0.2": "node2", "10.244.1.13": "default/web"}


def device_json(numbers: list[int], address: str = "127.0.0.1") -> dict[str, Any]:
    """Return a device in the first item of a capture."""
    return {
        "device": "flannel.1",
        "interface": "e0",
        "address": address,
        "port": 8472,
        "source_ports": [50_001, 50_002, 50_003, 50_004],
        "numbers": numbers,
    }


def copied(lone: Lone, mode: Mode = Mode.INNER | Mode.OUTER) -> bytes:
    """Return the records of a ping and its reply, an outgoing garbage frame, and an incoming runt."""
    node, peer = lone
    capture = DeviceTelemetry([node.pump]).capture(mode, 9000)
    for frame in (ping(), GARBAGE):
        node.put(frame)
    node.pump.on_tap_readable()
    for datagram in (vxlan(pong()), RUNT):
        peer.sendto(datagram, (HERE, node.udp.port))
    run([node], lambda: node.pump.decap_counters.by_reason()["too_short"] == 1)
    (raw,) = capture.read()
    capture.close()
    return raw


class StubDaemon:
    """A daemon whose capture has these items."""

    def __init__(self, *items: object) -> None:
        self._items = items
        self.asked: dict[str, object] = {}

    def ask(self, command: str, **_: object) -> object:
        """Refuse every command, as a daemon that is older than it."""
        raise CtlError(f"command: {command}: use one of capture, drops", 2)

    def stream(self, _command: str, **args: object) -> Any:  # noqa: ANN401  (as JSON has it)
        """Yield the items."""
        self.asked = args
        yield from self._items


def item(records: bytes, queue: int = 0) -> dict[str, object]:
    """Return an item with records."""
    return {"device": 0, "queue": queue, "records": b64encode(records).decode()}


Written = Callable[..., tuple[Session, list[Any]]]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Return a function that captures records given in pieces: the session, and the packets of its file."""

    def write(*pieces: bytes, expression: str = "", **options: Any) -> tuple[Session, list[Any]]:  # noqa: ANN401  (a Session's own)
        session, path = Session(expression, **options), tmp_path / "file.pcapng"
        items = [{"devices": [device_json([0])]}, *map(item, pieces)]
        session.run(StubDaemon(*items), str(path), as_json=False)  # type: ignore[arg-type]  # all it needs of a Daemon
        with PcapNgReader(str(path)) as reader:
            return session, list(reader)

    return write


def test_views(written: Written) -> None:
    """Inner shows each frame once, outer the datagrams of the underlay; a drop is in both."""
    with lone_node() as lone:
        raw = copied(lone)
    _, inner = written(raw)
    assert [(packet.sniffed_on, packet.comment) for packet in inner] == [
        ("flannel.1", b"encap to 127.0.0.2, forwarded"),
        ("flannel.1", b"encap, dropped: bum"),
        ("flannel.1", b"decap from 127.0.0.2, forwarded"),
        ("e0", b"decap from 127.0.0.2, dropped: too_short"),
    ]
    assert [bytes(packet) for packet in inner[:3]] == [ping(), GARBAGE, pong()]
    _, outer = written(raw, inner=False, outer=True)
    assert [packet.sniffed_on for packet in outer] == ["flannel.1", "e0", "e0", "e0"]
    assert bytes(outer[1][UDP].payload) == vxlan(ping())
    assert bytes(outer[3][UDP].payload) == RUNT
    _, both = written(raw, inner=True, outer=True)
    assert len(both) == 6
    _, dropped = written(raw, dropped=True)
    assert [packet.comment.rpartition(b" ")[2] for packet in dropped] == [b"bum", b"too_short"]


@pytest.mark.parametrize(("address", "layer"), [("127.0.0.1", IP), ("::1", IPv6)])
def test_outer_headers(address: str, layer: type) -> None:
    """Lengths and checksums are equal to scapy's."""
    with lone_node() as lone:
        raw = copied(lone)
    device = CaptureDevice(device_json([0], address), 0)
    for record, _ in device.take(0, raw):
        if record.is_datagram:
            frame = device.datagram(record if address != "::1" else replace(record, outer=None))
            again = Ether(frame)
            assert layer in again
            for part in (layer, UDP):
                for field in ("chksum", "len", "plen"):
                    if hasattr(again[part], field):
                        delattr(again[part], field)
            assert bytes(again) == frame


def test_gaps_are_counted(written: Written) -> None:
    """Numbers missing in a queue's records are counted as lost, with the packet after them."""
    with lone_node() as lone:
        raw = copied(lone)
    first_len = int.from_bytes(raw[:4], "big")
    session, packets = written(raw[first_len:])
    assert session.lost == 1
    assert (session.captured, session.filtered) == (len(packets), 0)


def test_pieces_are_joined(written: Written) -> None:
    """A record split over two items is one record."""
    with lone_node() as lone:
        raw = copied(lone)
    whole, _ = written(raw)
    for cut in (1, 8, 57, len(raw) - 1):
        session, _ = written(raw[:cut], raw[cut:])
        assert (session.captured, session.lost) == (whole.captured, 0)


def record_of(frame: bytes, direction: int, number: int, time_us: int, verdict: int = 0) -> bytes:
    """Return one record of a frame, as a ring has it."""
    length = HDR_LEN + len(frame) + 7 & ~7
    buf = bytearray(length)
    put_header(buf, 0, length, direction, verdict, 0, number, time_us * 1000, 0, 0, 0, 0, len(frame), len(frame))
    buf[HDR_LEN : HDR_LEN + len(frame)] = frame
    return bytes(buf)


def shown(capsys: pytest.CaptureFixture[str], *items: object, **options: Any) -> list[tuple[str, int]]:  # noqa: ANN401  (a Session's own)
    """Return the directions and times that a capture of two queues prints for these items."""
    stream = StubDaemon({"devices": [device_json([0, 0])]}, *items)
    Session("", **options).run(stream, None, as_json=True)  # type: ignore[arg-type]  # all it needs of a Daemon
    found = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    return [(each["direction"], each["time_us"]) for each in found]


def test_a_reply_comes_after_its_request(capsys: pytest.CaptureFixture[str]) -> None:
    """`trace --live` printed the reply first if another queue had the request: queues are read one by one."""
    request, reply = record_of(ping(), ENCAP, 0, 1000), record_of(pong(), DECAP, 0, 1001)
    in_order = [("encap", 1000), ("decap", 1001)]
    assert shown(capsys, item(reply, 0), item(request, 1), {"mark_us": 2000}) == in_order
    # The request was written to queue 0 after that was read, and the reply to queue 1 before: the mark is older.
    assert shown(capsys, item(reply, 1), {"mark_us": 999}, item(request, 0), {"mark_us": 2000}) == in_order
    assert (
        shown(capsys, item(reply, 1), {"mark_us": 1001}, item(request, 0), {"mark_us": 2000}, count=1) == in_order[:1]
    )


def test_times_survive_any_json_reader(capsys: pytest.CaptureFixture[str]) -> None:
    """Readers with doubles for numbers, such as jq, rounded `time_ns`, which is beyond 2**53; `time_us` is below it."""
    time_us = 1_764_512_345_678_901
    stream = StubDaemon({"devices": [device_json([0])]}, item(record_of(ping(), ENCAP, 0, time_us)))
    Session("").run(stream, None, as_json=True)  # type: ignore[arg-type]  # all it needs of a DaemonClient
    frame = json.loads(capsys.readouterr().out, parse_int=float)
    assert frame["time_us"] == time_us < 2**53
    assert frame["time_ns"] == pytest.approx(time_us * 1000)


def test_waiting_records_are_shown_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A stream that ends has no more marks; the records before its end are shown."""
    late = item(record_of(pong(), DECAP, 0, 5000), 1)
    assert shown(capsys, late, {"mark_us": 4000}) == [("decap", 5000)]


def test_a_filter_and_a_count(written: Written) -> None:
    """Filtered frames are counted; the capture ends after the given count."""
    with lone_node() as lone:
        raw = copied(lone)
    session, packets = written(raw, expression="icmp and decap")
    assert [bytes(packet) for packet in packets] == [pong()]
    assert session.filtered == 3
    session, packets = written(raw, count=2)
    assert (session.captured, len(packets)) == (2, 2)


def test_a_flows_filter() -> None:
    """The filter has both directions of a flow, with the given ports."""
    assert of_flow("10.0.0.1", "10.0.0.2", "", 0, 0) == (
        "(src host 10.0.0.1 and dst host 10.0.0.2 or src host 10.0.0.2 and dst host 10.0.0.1)"
    )
    text = of_flow("10.0.0.1", "10.0.0.2", "tcp", 0, 80)
    assert "dst host 10.0.0.2 and dst port 80 or" in text
    assert "dst host 10.0.0.1 and src port 80)" in text
    parse_filter(text)


def vxlandctl(tmp_path: Path, lines: Sequence[object], *words: str) -> Result:
    """Run a command whose daemon sends these lines and closes the connection, and knows NAMES."""
    path = tmp_path / "control.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        answer = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

        def serve() -> None:
            with suppress(OSError):  # the listener is shut down
                while True:
                    sock, _ = listener.accept()
                    with sock:
                        request = json.loads(sock.recv(1 << 16))
                        named = {"result": {"names": NAMES, "error": "no pods\x1b"}}
                        sock.sendall(json.dumps(named).encode() + b"\n" if request["command"] == "names" else answer)

        thread = threading.Thread(target=serve)
        thread.start()
        result = CliRunner().invoke(main, ["--socket", str(path), *words])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    return result


def test_text_and_json(tmp_path: Path) -> None:
    """The output has a line for each frame, and a summary on standard error."""
    with lone_node() as lone:
        raw = copied(lone)
    lines = [{"item": {"devices": [device_json([0])]}}, {"item": item(raw)}, {"end": True}]
    result = vxlandctl(tmp_path, lines, "capture")
    assert result.exit_code == 0
    first = result.stdout.splitlines()[0]
    names = "127.0.0.2 is node2, 10.244.1.13 is default/web"
    assert first.endswith(f"icmp type 8 length {len(ping())}: encap to 127.0.0.2, forwarded, {names}")
    assert result.stderr == "4 captured, 0 filtered out, 0 lost\n"
    result = vxlandctl(tmp_path, lines, "capture", "--json", "dropped")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["verdict"] for each in found] == ["bum", "too_short"]
    assert [each["names"] for each in found] == [{}, {"127.0.0.2": "node2"}]


def test_names_in_a_file(tmp_path: Path) -> None:
    """They are in the comment of each packet."""
    with lone_node() as lone:
        raw = copied(lone)
    lines = [{"item": {"devices": [device_json([0])]}}, {"item": item(raw)}, {"end": True}]
    assert vxlandctl(tmp_path, lines, "capture", "-w", str(tmp_path / "file")).exit_code == 0
    with PcapNgReader(str(tmp_path / "file")) as reader:
        assert reader.read_packet().comment.endswith(b"forwarded, 127.0.0.2 is node2, 10.244.1.13 is default/web")


def test_refusals(tmp_path: Path) -> None:
    """An invalid filter is a usage error; a daemon without a device and a full disk are failures; one line each."""
    result = CliRunner().invoke(main, ["capture", "host"])
    assert (result.exit_code, result.stdout) == (2, "")
    refusal = [{"error": "there is no device yet", "usage": False}]
    assert vxlandctl(tmp_path, refusal, "capture").stderr == "vxlandctl: there is no device yet\n"
    lines = [{"item": {"devices": [device_json([0])]}}]
    result = vxlandctl(tmp_path, lines, "capture", "-w", "/dev/full")
    assert result.exit_code == 1
    assert "/dev/full cannot be written: No space left on device: choose another file with -w" in result.stderr
    for src, dst, named in (("x", "10.244.1.2", "SRC: 'x'"), ("10.244.0.2", "5.6.7", "DST: '5.6.7'")):
        result = CliRunner().invoke(main, ["trace", "--live", src, dst])
        assert (result.exit_code, result.stderr) == (2, f"vxlandctl: {named}: use an IPv4 or IPv6 address\n")


def test_drops_as_text(tmp_path: Path) -> None:
    """The table has a row for each drop; below it is each reason's meaning, once."""
    drop = {
        "time_ns": 10**18,
        "direction": "decap",
        "reason": "wrong_vni",
        "outer": "127.0.0.2",
        "src": "10.0.0.1",
        "dst": "10.244.1.13",
        "length": 60,
        "packet": "10.0.0.1 > 10.0.0.2 icmp type 8",
        "happened": "another overlay's datagram",
        "remedy": "overlay.vni",
    }
    result = vxlandctl(tmp_path, [{"result": [drop, drop]}], "drops")
    assert result.stdout.count("10.0.0.1 > 10.0.0.2") == 2
    assert result.stdout.count("another overlay's datagram; look at: overlay.vni") == 1
    assert result.stdout.count("127.0.0.2 is node2\n") == result.stdout.count("10.244.1.13 is default/web\n") == 1
    assert result.stderr == "vxlandctl: names of pods are missing: no pods\\x1b\n"
    programs = json.loads(vxlandctl(tmp_path, [{"result": [drop]}], "drops", "--json").stdout)
    assert programs[0]["names"] == {"10.244.1.13": "default/web", "127.0.0.2": "node2"}
    assert vxlandctl(tmp_path, [{"result": []}], "drops").stdout == "nothing was dropped\n"
