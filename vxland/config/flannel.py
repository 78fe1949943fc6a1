"""The settings of flannel's stores, and of the firewall rules that flanneld keeps. docs/configuration.md shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from vxland.config.section import ONE_IS_LIST, Flag, Section
from vxland.config.values import FileValue, UrlValue


class EtcdSettings(Section):
    """The etcd v3 store of `registry.kind: etcd`, as flanneld uses it."""

    endpoints: Annotated[tuple[UrlValue, ...], ONE_IS_LIST, Field(min_length=1)] = ("http://127.0.0.1:2379",)
    """URLs of the cluster's members; the next one is tried where one does not answer."""

    prefix: str = "/coreos.com/network"
    """What flannel's keys start with: the network is defined at PREFIX/config."""

    username: str = ""
    """The user to log in as; empty: none."""

    password: SecretStr = SecretStr("")
    """The user's password."""

    password_file: FileValue | None = None
    """A file with the user's password in place of `password`. It is read again when it changes, as the files for TLS
    are, so that a new password needs no restart."""

    ca_file: FileValue | None = None
    """PEM file of the authorities that the server's certificate is checked against; by default the system's."""

    cert_file: FileValue | None = None
    """PEM file of the client certificate, with `key_file`."""

    key_file: FileValue | None = None
    """PEM file of the client certificate's key."""

    renew_margin_min: Annotated[int, Field(strict=True, ge=1, le=1439)] = 60
    """Minutes before its end at which the node's lease, which lasts a day, is renewed."""


class KubeSettings(Section):
    """The Kubernetes API of `registry.kind: kube`, as flanneld uses it."""

    api_url: UrlValue | None = None
    """The API server. By default that of `kubeconfig`, or else the one every pod is told of."""

    kubeconfig: FileValue | None = None
    """A kubeconfig file with server and credentials; by default the pod's service account."""

    node_name: str = ""
    """The name of this node's Node object. By default NODE_NAME of the environment, or else that of the pod named by
    POD_NAME and POD_NAMESPACE."""

    annotation_prefix: str = "flannel.alpha.coreos.com"
    """What flannel's annotations on the Node objects start with; the same on every node."""

    net_conf: FileValue = Path("/etc/kube-flannel/net-conf.json")
    """flannel's net-conf.json, which defines the network."""

    set_network_unavailable: Flag = True
    """Whether to set the Node's NetworkUnavailable condition to false once frames move."""


class FirewallSettings(Section):
    """The rules flanneld keeps beside the tunnel. Chains and tables have its names, so either can take over."""

    masquerade: Flag = False
    """Whether packets from pods to addresses outside the network leave with the node's address."""

    fully_random: Flag = True
    """Whether masqueraded source ports are chosen at random, where the kernel can."""

    forward: Flag = False
    """Whether forwarding to and from the network is accepted whatever the FORWARD chain's policy."""

    flavour: Literal["iptables", "nftables"] = "iptables"
    """What the rules are made with; a cluster's net-conf.json decides instead where there is one (EnableNFTables). Of
    the two backends of `iptables`, nft and legacy, it is the one that has kubelet's chains, or else more of the host's
    rules."""

    blackhole: Flag = False
    """Whether packets to addresses of this node's subnet that no pod has are dropped here instead of following the
    default route. Needs `overlay.subnet`, or a registry that assigns it."""

    resync_s: Annotated[int, Field(strict=True, ge=1, le=86400)] = 5
    """Seconds between looks at whether the rules are still there."""
