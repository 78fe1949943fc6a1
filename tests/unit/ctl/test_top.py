"""The screen of `vxlandctl top` on a narrow terminal."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from vxland.ctl import top

NOW = {"frames": 27_400, "bytes": 79_300, "drops": {"no_vtep": 1234}}
STATUS = {
    "version": "0.1.0",
    "gear": "compiled",
    "uptime_s": 1,
    "not_ready": "",
    "troubles": [],
    "registry": {"kind": "static", "error": "", "leases": 1},
    "planes": [],
}
PEER = {
    "subnet": "10.244.129.0/24",
    "vtep": "192.168.111.129",
    "probe": {
        "state": "reachable",
        "rtt_smoothed_s": 0.00123,
        "loss": 0.05,
        "full_mtu": "passes",
        "mtu": 1450,
        "cause": None,
    },
    "traffic": {way: {"frames": 1, "bytes": 693_000} for way in ("encap", "decap")},
}


def test_numbers_are_whole() -> None:
    """27.4k was shown as 27…, while texts beside it had room; they are folded."""
    both = dict.fromkeys(("encap", "decap"), NOW)
    output = StringIO()
    console = Console(file=output, width=68)
    console.print(top.screen(top.TopView(STATUS, both | {"at_s": 1}, both, [PEER])))
    shown = output.getvalue()
    assert all(number in shown for number in ("27.4k", "634k", "79.3k", "1.2k", "1.23 ms", "5%", "693k"))
    assert "…" not in shown
