"""System calls, devices, sockets and buffers of the data path."""
