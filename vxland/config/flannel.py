"""Settings of flannel's stores, and of the firewall rules that flanneld maintains. See docs/configuration.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from vxland.config.section import ONE_IS_LIST, Flag, ReadBy, Section
from vxland.config.values import FileValue, UrlValue


class EtcdSettings(Section):
    """The etcd v3 store of `registry.kind: etcd`, as flanneld uses it."""

    endpoints: Annotated[tuple[UrlValue, ...], ONE_IS_LIST, Field(min_length=1)] = ("http://127.0.0.1:2379",)
    """URLs of the cluster's members; vxland tries the next one if one does not answer."""

    prefix: str = "/coreos.com/network"
    """The prefix of flannel's keys: the network is defined at PREFIX/config."""

    username: str = ""
    """The user to log in as; empty: no login."""

    password: SecretStr = SecretStr("")
    """The user's password."""

    password_file: FileValue | None = None
    """A file with the user's password, instead of `password`. vxland reads it again when it changes, like the TLS
    files, so a new password needs no restart."""

    ca_file: FileValue | None = None
    """PEM file of the authorities that the server's certificate is verified against; by default the system's."""

    cert_file: FileValue | None = None
    """PEM file of the client certificate, with `key_file`."""

    key_file: FileValue | None = None
    """PEM file of the client certificate's key."""

    renew_margin_min: Annotated[int, Field(strict=True, ge=1, le=1439)] = 60
    """Minutes before the node's lease expires at which vxland renews it, at the latest. The lease lasts a day.

    Each node adds up to as much again, at random, so that nodes that started together renew apart.
    """


class KubeSettings(Section):
    """The Kubernetes API of `registry.kind: kube`, as flanneld uses it."""

    api_url: UrlValue | None = None
    """The API server. By default that of `kubeconfig`, or else the one in the environment of every pod."""

    kubeconfig: FileValue | None = None
    """A kubeconfig file with server and credentials; by default the pod's service account."""

    node_name: str = ""
    """The name of this node's Node object. By default NODE_NAME of the environment, or else the node of the pod that
    POD_NAME and POD_NAMESPACE name."""

    annotation_prefix: str = "flannel.alpha.coreos.com"
    """The prefix of flannel's annotations on the Node objects; the same on every node."""

    net_conf: FileValue = Path("/etc/kube-flannel/net-conf.json")
    """flannel's net-conf.json, which defines the network."""

    set_network_unavailable: Flag = True
    """Whether to set the Node's NetworkUnavailable condition to false once vxland forwards."""

    pod_names: Flag = False
    """Show the names of pods beside their addresses in vxlandctl. vxland then asks the API server for them, which needs
    the right to list pods."""


class FirewallSettings(Section):
    """The firewall rules that flanneld maintains. Chains and tables have flanneld's names, so either can take over."""

    masquerade: Flag = False
    """Whether packets from pods to addresses outside the network leave with the node's address."""

    fully_random: Flag = True
    """Whether masqueraded source ports are chosen at random, if the kernel supports it."""

    forward: Flag = False
    """Whether forwarding to and from the network is accepted, whatever the FORWARD chain's policy is."""

    flavour: Annotated[
        Literal["iptables", "nftables"],
        ReadBy(("static",), "EnableNFTables of the cluster's network configuration decides"),
    ] = "iptables"
    """The program for the rules; a cluster's net-conf.json takes precedence if there is one (EnableNFTables).
    `iptables` has two backends, nft and legacy: vxland uses the one with kubelet's chains, or else the one with more of
    the host's rules."""

    blackhole: Flag = False
    """Whether packets to unused addresses of this node's subnet are dropped here instead of following the default
    route. Needs `overlay.subnet`, or a registry that assigns it."""

    resync_s: Annotated[int, Field(strict=True, ge=1, le=86400)] = 5
    """Seconds between checks that the rules are still in place."""
