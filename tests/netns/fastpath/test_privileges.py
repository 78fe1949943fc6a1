"""The kernel takes the programs from a process with CAP_BPF and CAP_NET_ADMIN alone, as in the units and the image."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from tests.installed import ROOT

pytestmark = pytest.mark.netns

LOAD: Final = """
import pwd
from vxland.fastpath.libbpf import BpfObject, OpenedObject, library
from vxland.fastpath.programs import OBJECT
from vxland.kernel import privilege

image, lib = OBJECT.read_bytes(), library()
privilege.become(pwd.getpwnam("nobody"), keep_bpf=True)
BpfObject(OpenedObject(lib, image)).close()
print(*privilege.held().capabilities)
"""


def test_two_capabilities_are_enough() -> None:
    """Under systemd the fast path was off: without CAP_PERFMON the verifier refused a variable offset into a packet."""
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("CAP_NET_ADMIN CAP_BPF\n", "")
