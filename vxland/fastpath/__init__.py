"""BPF programs: those that carry in the kernel what the daemon has judged, and one that reports the kernel's drops."""
