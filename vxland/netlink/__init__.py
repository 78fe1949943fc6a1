"""Conversations with the kernel over rtnetlink, the parsing of its messages, and the choice of the underlay."""

import sys
from importlib import util

for _name in ("pyroute2", "pyroute2.ethtool"):
    if _name not in sys.modules and (_found := util.find_spec(_name)):
        # The package without its __init__, which imports all of the library: this room needs only the ethtool ioctls.
        sys.modules[_name] = util.module_from_spec(_found)
