"""flanneld's command line as settings of vxland, so that a node moves by changing its image and its command."""

from vxland.cli.flanneld.flag_table import help_text
from vxland.cli.flanneld.translate import Command, parse

__all__ = ["Command", "help_text", "parse"]
