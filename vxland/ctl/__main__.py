"""`python -P -m vxland.ctl`: vxlandctl without an installed script."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the current directory: root would run any file that somebody put there

from vxland.ctl.cli import main

main()
