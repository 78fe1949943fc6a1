"""Settings of security: accepted senders, and the privileges of the daemon. docs/configuration.md shows them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import PlainValidator

from vxland.config.section import OFF_IS_FALSE, ON_OFF, RELOADABLE, STORES, ReadBy, Section
from vxland.config.values import SourcesByVtepValue, UserValue
from vxland.model.source_check import SourceCheck

Seccomp: TypeAlias = Literal["auto", "on", "off"]
InputFilter: TypeAlias = Literal["off", "nftables"]

_BY_PEER = "each peer in registry.peers has its own sources"


def _source_check(raw: object) -> SourceCheck:
    if isinstance(raw, SourceCheck):
        return raw
    label = "off" if raw is False else raw  # YAML 1.1 reads a bare off as false
    for check in SourceCheck:
        if check.label == label:
            return check
    msg = f"write {SourceCheck.OFF}, {SourceCheck.VTEP} or {SourceCheck.STRICT}"
    raise ValueError(msg)


class SecuritySettings(Section):
    """The frames that vxland accepts from the underlay, and the privileges of the daemon itself."""

    source_check: Annotated[SourceCheck, PlainValidator(_source_check), RELOADABLE] = SourceCheck.VTEP
    """`vtep` accepts only datagrams from the VTEPs in the registry; `off` accepts them from any host, as flannel does.
    `strict` also requires the inner sender, of ARP and neighbour discovery too, to be in a subnet of that VTEP's node,
    or to be the node's own underlay address. It refuses traffic that a node forwards into the overlay for others
    without masquerading; see docs/security.md."""

    sources: Annotated[SourcesByVtepValue, ReadBy(STORES, _BY_PEER), RELOADABLE] = ()
    """With the registries `etcd` and `kube`, the source addresses of nodes behind NAT: a mapping of the addresses that
    they advertise to lists like `registry.peers[].sources`. With `kube`, the addresses of a Node with flannel's
    annotation `public-ip-overwrite` are known without it."""

    input_filter: Annotated[InputFilter, OFF_IS_FALSE] = "off"
    """The filter that drops datagrams of unknown senders before they wake vxland. `nftables`: a separate table, which
    vxland updates, checks every `firewall.resync_s` seconds and removes when it ends. It needs `source_check`."""

    user: UserValue | None = None
    """The user to run as after a start by root. vxland gives /run/vxland and similar folders to it, and keeps only
    CAP_NET_ADMIN of root's capabilities. By default the user that starts vxland; the systemd units have a separate
    user. The user needs read access to the configuration for reloads, and to certificates and kubeconfig."""

    seccomp: Annotated[Seccomp, ON_OFF] = "auto"
    """Whether the kernel refuses system calls that neither vxland nor nft and iptables need. `auto` does if the extra
    `hardening` (pyseccomp, and libseccomp) is installed. The systemd units have such a filter too."""
