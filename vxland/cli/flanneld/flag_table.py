"""Every flag of flanneld on Linux with its effect here, and one flag of vxland. docs/flanneld.md shows this table."""

from __future__ import annotations

from typing import Final

from vxland.cli.flanneld.go_flags import Flag

FLAGS: Final = (
    Flag(
        "kube-subnet-mgr",
        "switch",
        "false",
        "Take leases from the Kubernetes API, and the network from --net-config-path; otherwise both come from etcd.",
    ),
    Flag(
        "etcd-endpoints",
        "text",
        "http://127.0.0.1:4001,http://127.0.0.1:2379",
        "The etcd cluster's URLs, separated by commas.",
        "etcd.endpoints",
    ),
    Flag("etcd-prefix", "text", "/coreos.com/network", "The prefix of the keys in etcd.", "etcd.prefix"),
    Flag("etcd-keyfile", "text", "", "PEM file of the client certificate's key, for https.", "etcd.key_file"),
    Flag("etcd-certfile", "text", "", "PEM file of the client certificate, for https.", "etcd.cert_file"),
    Flag(
        "etcd-cafile",
        "text",
        "",
        "PEM file of the authorities that sign etcd's certificate. Also used alone, where flanneld ignores it.",
        "etcd.ca_file",
    ),
    Flag("etcd-username", "text", "", "The user to log in to etcd as.", "etcd.username"),
    Flag("etcd-password", "text", "", "The user's password.", "etcd.password"),
    Flag(
        "iface",
        "list",
        "",
        "The interface between the nodes, by name or address. May be repeated: vxland takes the first that exists.",
        "underlay.interface",
    ),
    Flag(
        "iface-regex",
        "list",
        "",
        "A pattern of its address or name, tried after --iface. May be repeated.",
        "underlay.interface_regex",
    ),
    Flag(
        "iface-can-reach",
        "text",
        "",
        "The interface and address that packets to this address leave from, tried last.",
        "underlay.can_reach",
    ),
    Flag(
        "public-ip",
        "text",
        "",
        "The IPv4 address that peers send to. Without an --iface option it selects the interface, and must be this"
        " node's; with one it may also be the address of a NAT in front of it.",
    ),
    Flag("public-ipv6", "text", "", "The same for IPv6."),
    Flag(
        "subnet-file",
        "text",
        "/run/flannel/subnet.env",
        "The path of the file that the CNI plugin reads.",
    ),
    Flag(
        "subnet-lease-renew-margin",
        "number",
        "60",
        "Minutes before the lease in etcd expires at which it is renewed, 1 to 1439.",
        "etcd.renew_margin_min",
    ),
    Flag(
        "ip-masq",
        "switch",
        "false",
        "Masquerade packets from pods to addresses outside the network.",
        "firewall.masquerade",
    ),
    Flag(
        "ip-masq-fully-random-disable",
        "switch",
        "false",
        "Do not choose masqueraded source ports at random.",
    ),
    Flag(
        "iptables-forward-rules",
        "switch",
        "true",
        "Accept forwarded packets from and to the network.",
        "firewall.forward",
    ),
    Flag(
        "iptables-resync",
        "number",
        "5",
        "Seconds between checks that the rules are still in place.",
        "firewall.resync_s",
    ),
    Flag(
        "ip-blackhole-route",
        "switch",
        "false",
        "Drop packets to unused addresses of this node's subnet.",
        "firewall.blackhole",
    ),
    Flag("kube-api-url", "text", "", "The API server; not needed in a pod.", "kube.api_url"),
    Flag(
        "kubeconfig-file",
        "text",
        "",
        "A kubeconfig; not needed in a pod, which has a service account.",
        "kube.kubeconfig",
    ),
    Flag(
        "kube-annotation-prefix",
        "text",
        "flannel.alpha.coreos.com",
        "The prefix of the annotations on Nodes.",
        "kube.annotation_prefix",
    ),
    Flag(
        "net-config-path",
        "text",
        "/etc/kube-flannel/net-conf.json",
        "The network's definition, with --kube-subnet-mgr.",
        "kube.net_conf",
    ),
    Flag(
        "set-node-network-unavailable",
        "switch",
        "true",
        "Set the Node's condition NetworkUnavailable to false once vxland forwards.",
        "kube.set_network_unavailable",
    ),
    Flag(
        "healthz-ip",
        "text",
        "0.0.0.0",  # noqa: S104  (flanneld's default; nothing listens unless a port is given)
        "The address to serve /healthz, /readyz and, unlike flanneld, /metrics on.",
    ),
    Flag("healthz-port", "number", "0", "The port to serve them on; 0 is off."),
    Flag("version", "switch", "false", "Print the version to standard error and exit."),
    Flag("v", "number", "0", "The level debug, if 1 or more."),
    Flag("vmodule", "text", "", "Accepted without effect: vxland has one level for all modules."),
    Flag("log_backtrace_at", "text", "", "Accepted without effect: it refers to flanneld's source."),
    Flag(
        "vxland-config",
        "text",
        "",
        "Not a flag of flanneld: a YAML file with the sections security, probe, datapath, control and"
        " overlay, and with kube.pod_names. SIGHUP reads it again.",
    ),
)

ENVIRONMENT: Final = {
    "NODE_NAME": "The name of this node's Node object.",
    "POD_NAME": "With POD_NAMESPACE, a pod of this node, if NODE_NAME is not set.",
    "POD_NAMESPACE": "See POD_NAME.",
    "EVENT_QUEUE_DEPTH": "Accepted without effect: there is no queue of events that could overflow.",
    "CONT_WHEN_CACHE_NOT_READY": "Accepted without effect: vxland always waits for an unavailable API server.",
}
"""Variables other than FLANNELD_*, with their effect."""


def help_text() -> str:
    """All flags with their defaults and meanings, then the environment."""
    lines = [
        "Usage: vxland flanneld [--FLAG=VALUE]...",
        "",
        "Runs vxland instead of flanneld, with flanneld's flags. The cluster's net-conf.json defines the network.",
        "",
    ]
    for flag in FLAGS:
        value = {"text": "=TEXT", "list": "=TEXT", "number": "=NUMBER", "switch": ""}[flag.kind]
        default = f" (default {flag.default})" if flag.default else ""
        lines += [f"  --{flag.name}{value}{default}", f"        {flag.meaning}"]
    lines += [
        "",
        "One dash or two, as in Go. Turn a switch off with --FLAG=false, without a space. A flag that is not given can",
        "come from the environment: FLANNELD_ and its name in capitals, with _ for -. Other variables:",
        "",
    ]
    for name, meaning in ENVIRONMENT.items():
        lines += [f"  {name}", f"        {meaning}"]
    return "\n".join(lines)
