"""vxland: a userspace VXLAN data plane for flannel clusters."""

from vxland import gear

__version__ = "0.1.0"

gear.select()
