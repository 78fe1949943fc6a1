"""The conditions on this machine that the fast path depends on, and the reasons why there is none."""

from __future__ import annotations

import errno
import sys
from platform import release

from vxland.config import Settings
from vxland.fastpath.choice import Surroundings, why_not
from vxland.fastpath.libbpf import UNREADABLE, BpfError
from vxland.fastpath.programs import Programs
from vxland.kernel.ipsec import has_policies
from vxland.model.kernel_state import Underlay
from vxland.netlink.features import is_ethernet


def surroundings(settings: Settings, underlay: Underlay, *, has_address: bool = True) -> Surroundings:
    """Return the conditions as they are now."""
    return Surroundings(
        wanted=settings.datapath.fast_path == "auto",
        elsewhere=underlay.elsewhere,
        address_version=underlay.address.version,
        is_ethernet=is_ethernet(underlay.index),
        in_vrf=underlay.vrf != 0,
        has_ipsec=has_policies(),
        little_endian=sys.byteorder == "little",
        has_address=has_address,
    )


def why_not_here(settings: Settings, underlay: Underlay) -> str:
    """Return the reason why the programs could not run; empty if the kernel loads them. Nothing is attached."""
    if reason := why_not(surroundings(settings, underlay)):
        return reason
    try:
        Programs(settings.device).close()
    except BpfError as exc:
        return explain(exc)
    return ""


def explain(exc: BpfError) -> str:
    """Return the reason why the kernel refuses the programs, with a remedy."""
    if exc.errno == 0:
        return f"{exc.what}: install the package libbpf1 (Alpine: libbpf)"
    if exc.what == UNREADABLE and exc.errno == errno.EPERM:
        return f"{exc}: a filter of system calls refuses memfd_create to libbpf; start vxland again, or allow the call"
    if exc.errno in (errno.EPERM, errno.EACCES) and not exc.log:
        return f"{exc}: vxland needs the capabilities BPF and NET_ADMIN, outside of user namespaces"
    return f"{exc}, on Linux {release()}; the fast path needs 5.13 with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS"
