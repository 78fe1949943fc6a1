"""Compile the data path: each listed module and the .pxd beside it become one extension.

Without a working C compiler, or with VXLAND_PURE=1, the build goes on and the package runs interpreted.
"""

import os

from setuptools import Extension, setup

COMPILED = [
    "vxland.wire.checksum",
    "vxland.wire.ethernet",
    "vxland.wire.ip",
    "vxland.wire.l4",
    "vxland.wire.arp",
    "vxland.wire.icmp",
    "vxland.wire.ndp",
    "vxland.wire.octets",
    "vxland.wire.record",
    "vxland.wire.virtio",
    "vxland.wire.vxlan",
    "vxland.datapath.verdict",
    "vxland.datapath.table",
    "vxland.datapath.encap",
    "vxland.datapath.decap",
    "vxland.datapath.coalesce",
    "vxland.datapath.datagram",
    "vxland.datapath.limits",
    "vxland.datapath.segment",
    "vxland.datapath.traffic",
    "vxland.datapath.train",
    "vxland.kernel.buffers",
    "vxland.kernel.ring",
    "vxland.burst.watch",
    "vxland.burst.encap",
    "vxland.burst.decap",
    "vxland.pump",
    "vxland.bench.loops",
]

FLAGS = ["-O3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-cast-function-type"]
SANITIZERS = {
    "": [],
    "1": ["-fsanitize=address", "-fno-omit-frame-pointer", "-g"],  # `make sanitize`
    "fuzz": ["-fsanitize=address,fuzzer-no-link", "-fno-omit-frame-pointer", "-g"],  # `make fuzz`, clang's
}
SANITIZE = SANITIZERS[os.environ.get("VXLAND_SANITIZE", "")]

DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # annotations are for mypy; C types stand in the .pxd alone
    "boundscheck": False,  # every access follows a length check in the source
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "auto_pickle": False,
}


def extensions() -> list[Extension]:
    """The extension modules, or none where the interpreted gear is asked for."""
    if os.environ.get("VXLAND_PURE", "") not in {"", "0"}:
        return []
    from Cython.Build import cythonize  # a build requirement, absent at run time

    modules = [
        Extension(
            name,
            [name.replace(".", "/") + ".py"],
            optional=True,
            extra_compile_args=[*FLAGS, *SANITIZE],
            extra_link_args=SANITIZE,
        )
        for name in COMPILED
    ]
    built: list[Extension] = cythonize(modules, compiler_directives=DIRECTIVES, annotate=False)
    return built


setup(ext_modules=extensions())
