"""Every flag that flanneld has on Linux and what becomes of it, and one of ours. docs/flanneld.md shows this table."""

from __future__ import annotations

from typing import Final

from vxland.cli.flanneld.go_flags import Flag

FLAGS: Final = (
    Flag(
        "kube-subnet-mgr",
        "switch",
        "false",
        "Take leases from the Kubernetes API, and the network from --net-config-path; else both come from etcd.",
    ),
    Flag(
        "etcd-endpoints",
        "text",
        "http://127.0.0.1:4001,http://127.0.0.1:2379",
        "The etcd cluster's URLs, with commas between them.",
        "etcd.endpoints",
    ),
    Flag("etcd-prefix", "text", "/coreos.com/network", "What the keys in etcd start with.", "etcd.prefix"),
    Flag("etcd-keyfile", "text", "", "PEM file of the client certificate's key, for https.", "etcd.key_file"),
    Flag("etcd-certfile", "text", "", "PEM file of the client certificate, for https.", "etcd.cert_file"),
    Flag(
        "etcd-cafile",
        "text",
        "",
        "PEM file of the authorities that sign etcd's certificate. Also obeyed alone, where flanneld ignores it.",
        "etcd.ca_file",
    ),
    Flag("etcd-username", "text", "", "The user to log in to etcd as.", "etcd.username"),
    Flag("etcd-password", "text", "", "The user's password.", "etcd.password"),
    Flag(
        "iface",
        "list",
        "",
        "The interface between the nodes, by name or address. May be repeated: the first that is there is taken.",
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
        "The IPv4 address peers send to. Without an --iface option it chooses the interface, and has to be this node's;"
        " with one it may also be that of a NAT before it.",
    ),
    Flag("public-ipv6", "text", "", "The same for IPv6."),
    Flag(
        "subnet-file",
        "text",
        "/run/flannel/subnet.env",
        "Where to write the file that the CNI plugin reads.",
    ),
    Flag(
        "subnet-lease-renew-margin",
        "number",
        "60",
        "Minutes before its end at which the lease in etcd is renewed, 1 to 1439.",
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
        "Seconds between looks at whether the rules are still there.",
        "firewall.resync_s",
    ),
    Flag(
        "ip-blackhole-route",
        "switch",
        "false",
        "Drop packets to addresses of this node's subnet that no pod has.",
        "firewall.blackhole",
    ),
    Flag("kube-api-url", "text", "", "The API server; in a pod it is known.", "kube.api_url"),
    Flag("kubeconfig-file", "text", "", "A kubeconfig; in a pod its service account does.", "kube.kubeconfig"),
    Flag(
        "kube-annotation-prefix",
        "text",
        "flannel.alpha.coreos.com",
        "What the annotations on Nodes start with.",
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
        "Set the Node's condition NetworkUnavailable to false once frames move.",
        "kube.set_network_unavailable",
    ),
    Flag(
        "healthz-ip",
        "text",
        "0.0.0.0",  # noqa: S104  (flanneld's default; nothing listens unless a port is given)
        "The address that /healthz, /readyz and, unlike flanneld, /metrics are served on.",
    ),
    Flag("healthz-port", "number", "0", "The port of these; 0 is off."),
    Flag("version", "switch", "false", "Print the version to standard error and exit."),
    Flag("v", "number", "0", "1 or more logs at level debug."),
    Flag("vmodule", "text", "", "Accepted without effect: vxland's log has one level."),
    Flag("log_backtrace_at", "text", "", "Accepted without effect: it names a line of flanneld's source."),
    Flag(
        "vxland-config",
        "text",
        "",
        "Not flanneld's: a YAML file of the sections security, probe, datapath, control, overlay; SIGHUP reads it.",
    ),
)

ENVIRONMENT: Final = {
    "NODE_NAME": "The name of this node's Node object.",
    "POD_NAME": "With POD_NAMESPACE, the pod whose node this is, where NODE_NAME is not set.",
    "POD_NAMESPACE": "See POD_NAME.",
    "EVENT_QUEUE_DEPTH": "Accepted without effect: there is no queue of events that could overflow.",
    "CONT_WHEN_CACHE_NOT_READY": "Accepted without effect: an API server that is away is always waited for.",
}
"""Variables beside FLANNELD_*, and what becomes of them."""


def help_text() -> str:
    """All flags with their defaults and meanings, then the environment."""
    lines = [
        "Usage: vxland flanneld [--FLAG=VALUE]...",
        "",
        "Runs vxland in flanneld's place, with flanneld's flags. The network is the cluster's net-conf.json.",
        "",
    ]
    for flag in FLAGS:
        value = {"text": "=TEXT", "list": "=TEXT", "number": "=NUMBER", "switch": ""}[flag.kind]
        default = f" (default {flag.default})" if flag.default else ""
        lines += [f"  --{flag.name}{value}{default}", f"        {flag.meaning}"]
    lines += [
        "",
        "One dash is as good as two. A switch is turned off with --FLAG=false, never with a blank. A flag that is not",
        "given is taken from the environment: FLANNELD_ and its name in capitals, with _ for -. Besides:",
        "",
    ]
    for name, meaning in ENVIRONMENT.items():
        lines += [f"  {name}", f"        {meaning}"]
    return "\n".join(lines)
