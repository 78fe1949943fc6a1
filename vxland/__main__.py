"""`python -m vxland` is `vxland`."""

from vxland.cli import main

main()
