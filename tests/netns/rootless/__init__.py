"""vxland against a kernel vxlan device configured as flannel does, and against itself; lab.py shows the topology."""
