#!/usr/bin/env python3
"""A node of compose.yaml: its interface in the pods' network becomes cni0 with the pods' gateway; then it is vxland.

    node.py GATEWAY/LENGTH [VXLAND'S ARGUMENTS]

Docker attaches pods to a bridge without an address, and makes GATEWAY their default route. No container may have that
address from Docker, so the node takes it here, as a CNI plugin does on a node of a cluster.
"""

import os
import socket
import sys
from ipaddress import ip_address, ip_interface

from pyroute2 import IPRoute

BRIDGE = "cni0"


def main(gateway: str, *args: str) -> None:
    """Set up the interface, then run vxland. SystemExit with one line if no interface is in the gateway's network."""
    wanted = ip_interface(gateway)
    with IPRoute() as kernel:
        found = [
            address["index"]
            for address in kernel.get_addr(family=socket.AF_INET)
            if ip_address(address.get_attr("IFA_ADDRESS")) in wanted.network
        ]
        if not found:
            sys.exit(f"node.py: no interface of this container is in {wanted.network}: connect it to that network")
        (leg,) = found
        kernel.link("set", index=leg, state="down")  # keeps its addresses, removes its routes
        kernel.flush_addr(index=leg)
        kernel.link("set", index=leg, ifname=BRIDGE)
        kernel.addr("add", index=leg, address=str(wanted.ip), prefixlen=wanted.network.prefixlen)
        kernel.link("set", index=leg, state="up")
    os.execvp("vxland", ["vxland", *args])  # noqa: S606, S607  (in this image)


if __name__ == "__main__":
    main(*sys.argv[1:])
