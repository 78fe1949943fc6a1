"""Compile the data path: each listed module and the .pxd beside it become one extension.

Without Cython or a working C compiler, or with VXLAND_PURE=1, the build goes on and the package runs interpreted. All
modules are compiled or none: a compiled one takes C functions from others, which an interpreted one has not.
"""

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

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
    "vxland.datapath.partial",
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


class BuildAll(build_ext):  # type: ignore[misc]  # setuptools has no types here
    """Build every extension, or none of them where one cannot be built."""

    extensions: list[Extension]

    def build_extensions(self) -> None:
        """Compile and link all; on a failure remove what there is and go on without."""
        try:
            super().build_extensions()
        except (BaseError, CCompilerError, OSError) as exc:
            if any(SANITIZE):  # who asks for that wants it, or an error
                raise
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = []
            self.warn(f"the data path is not compiled, and vxland will run interpreted, much slower: {exc}")


def extensions() -> list[Extension]:
    """The extension modules, or none where the interpreted gear is asked for or there is no Cython."""
    if os.environ.get("VXLAND_PURE", "") not in {"", "0"}:
        return []
    try:
        from Cython.Build import cythonize  # a build requirement, absent where the build has no isolation
    except ImportError:
        return []

    modules = [
        Extension(
            name,
            [name.replace(".", "/") + ".py"],
            extra_compile_args=[*FLAGS, *SANITIZE],
            extra_link_args=SANITIZE,
        )
        for name in COMPILED
    ]
    built: list[Extension] = cythonize(modules, compiler_directives=DIRECTIVES, annotate=False)
    return built


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildAll})
