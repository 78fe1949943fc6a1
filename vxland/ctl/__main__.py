"""`python -m vxland.ctl`: vxlandctl, where it is not installed."""

from vxland.ctl.cli import main

main()
