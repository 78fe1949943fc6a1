"""`python -P -m vxland.ctl`: vxlandctl, where it is not installed."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the current directory: root would run what somebody has put there

from vxland.ctl.cli import main

main()
