"""`vxland run`, `check` and `flanneld`; flanneld's flags translated to settings."""
