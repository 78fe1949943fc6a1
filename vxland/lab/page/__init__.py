"""HTML pages of demo and benchmark: one file each, rendered from templates, which loads nothing from anywhere."""
