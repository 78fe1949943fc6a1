"""vxland beside a kernel vxlan device configured as flannel does, and beside itself; lab.py shows the topology."""
