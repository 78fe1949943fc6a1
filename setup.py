"""Compile the data path: each listed module and the .pxd beside it become one extension.

Without Cython or a working C compiler, or with VXLAND_PURE=1, the build goes on and the package runs interpreted. All
modules are compiled or none: a compiled one takes C functions from others, which an interpreted one has not.

The ELF build ID of each extension is a digest of its sources. A build in place compiles the modules whose digest has
changed, whatever the clock says, and the tests refuse to run an extension of other sources (tests/conftest.py).
"""

import itertools
import os
import re
import runpy
import sysconfig
from concurrent.futures import ProcessPoolExecutor, as_completed
from hashlib import sha256
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import BaseError, CCompilerError

ROOT = Path(__file__).parent

COMPILED = [
    "vxland.wire.checksum",
    "vxland.wire.ethernet",
    "vxland.wire.ip",
    "vxland.wire.l4",
    "vxland.wire.arp",
    "vxland.wire.icmp",
    "vxland.wire.ndp",
    "vxland.wire.bigendian",
    "vxland.wire.record",
    "vxland.wire.virtio",
    "vxland.wire.vxlan",
    "vxland.datapath.verdict",
    "vxland.datapath.prefix_map",
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
    "vxland.forwarding.io.buffers",
    "vxland.forwarding.io.ring",
    "vxland.forwarding.recorder",
    "vxland.forwarding.encap",
    "vxland.forwarding.decap",
    "vxland.forwarding.pump",
    "vxland.lab.bench.loops",
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


CIMPORT = re.compile(r"^(?:from +(vxland[.\w]*) +cimport|cimport +(vxland[.\w]*))", re.MULTILINE)
SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))


def sources(name: str, root: Path = ROOT) -> list[Path]:
    """Return the files that one extension is made of: the module, its .pxd and every .pxd that these take from."""
    found: dict[str, Path] = {}
    names = [name]
    while names:
        module = names.pop()
        declared = root.joinpath(*module.split(".")).with_suffix(".pxd")
        if module not in found and declared.exists():
            found[module] = declared
            names += [first or second for first, second in CIMPORT.findall(declared.read_text(encoding="utf-8"))]
    return [found[name].with_suffix(".py"), *(found[module] for module in sorted(found))]


def digest(name: str, root: Path = ROOT) -> bytes:
    """Return the build ID of one extension."""
    texts = [repr((name, FLAGS, DIRECTIVES)).encode(), *(path.read_bytes() for path in sources(name, root))]
    return sha256(b"".join(sha256(text).digest() for text in texts)).digest()[:20]


def in_place(root: Path = ROOT) -> dict[str, Path]:
    """Return the extensions that lie in the source tree, by module, as this Python would load them."""
    found = (root / "vxland").rglob(f"*{SUFFIX}")
    return {str(path.relative_to(root)).removesuffix(SUFFIX).replace("/", "."): path for path in sorted(found)}


def outdated(root: Path = ROOT) -> list[str]:
    """Return the modules whose extension does not lie in the source tree or was built of other sources."""
    built = in_place(root)
    return [name for name in COMPILED if name not in built or digest(name, root) not in built[name].read_bytes()]


def stale(root: Path = ROOT) -> list[str]:
    """Return what must not be run: outdated modules beside compiled ones, and extensions of modules that are gone."""
    built = in_place(root)
    return [*outdated(root), *(name for name in built if name not in COMPILED)] if built else []


def write_commit(tree: Path) -> None:
    """Put the commit that is built into a tree: VXLAND_COMMIT, or that of the sdist or of git. If unknown, no file."""
    found = (
        os.environ.get("VXLAND_COMMIT", "")[:12]
        or runpy.run_path(str(ROOT / "vxland" / "ops" / "commit.py"))["commit"]()
    )
    if found:
        (tree / "vxland" / "commit").write_text(f"{found}\n", encoding="ascii")


class BuildWithCommit(build_py):  # type: ignore[misc]  # setuptools has no types here
    """Build the modules, with the commit. An editable installation is a checkout, which has its own."""

    def run(self) -> None:
        """Copy, then write the commit."""
        super().run()
        if not self.editable_mode:
            write_commit(Path(self.build_lib))


class ArchiveWithCommit(sdist):  # type: ignore[misc]  # as above
    """Make the sdist, with the commit."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy, then write the commit."""
        super().make_release_tree(base_dir, files)
        write_commit(Path(base_dir))


class BuildAll(build_ext):  # type: ignore[misc]  # as above
    """Build every extension, or none of them where one cannot be built. One line for each reports the progress."""

    extensions: list[Extension]
    parallel: int | None

    def finalize_options(self) -> None:
        """Translate to C what will be compiled: in place the outdated modules alone. Use all CPUs."""
        self.parallel = self.parallel or len(os.sched_getaffinity(0))
        self.numbers = itertools.count(1)
        self.tree = bool(self.inplace)
        modules: list[Extension] = self.distribution.ext_modules or []
        if self.tree and modules:
            wanted = outdated()
            modules = [module for module in modules if module.name in wanted]
            for name, path in in_place().items():
                if name not in COMPILED:
                    path.unlink()
        if not self.tree and not any(SANITIZE):  # symbols serve debuggers and perf, which run in a checkout
            for module in modules:
                module.extra_compile_args.append("-g0")
                module.extra_link_args.append("-s")
        self.distribution.ext_modules = translated(modules, force=self.tree, threads=self.parallel)
        super().finalize_options()

    def build_extensions(self) -> None:
        """Compile and link all; on a failure remove what there is and go on without."""
        try:
            super().build_extensions()
        except (BaseError, CCompilerError, OSError) as exc:
            if any(SANITIZE):  # who asks for that wants it, or an error
                raise
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            for path in in_place().values() if self.tree else ():
                path.unlink()
            self.extensions = []
            self.warn(f"the data path is not compiled, and vxland will run interpreted, much slower: {exc}")

    def build_extension(self, ext: Extension) -> None:
        """Compile and link one."""
        super().build_extension(ext)
        report(next(self.numbers), self.extensions, f"{ext.name} compiled")


def translated(modules: list[Extension], *, force: bool, threads: int) -> list[Extension]:
    """Return the extensions with C sources, or none where there is no Cython."""
    try:
        from Cython.Build import cythonize  # a build requirement, absent where the build has no isolation
    except ImportError:
        return []
    with ProcessPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(cythonize, [module], force=force, quiet=True, compiler_directives=DIRECTIVES)
            for module in modules
        ]
        for number, job in enumerate(as_completed(jobs), 1):
            report(number, modules, f"{job.result()[0].name} translated to C")
    return [extension for job in jobs for extension in job.result()]


def report(number: int, modules: list[Extension], done: str) -> None:
    """Show how far the build is."""
    print(f"[{number}/{len(modules)}] {done}", flush=True)  # noqa: T201  (progress of a build that takes minutes)


def extensions() -> list[Extension]:
    """Return the extension modules, or none where the interpreted gear is asked for."""
    if os.environ.get("VXLAND_PURE", "") not in {"", "0"}:
        return []
    return [
        Extension(
            name,
            [name.replace(".", "/") + ".py"],
            extra_compile_args=[*FLAGS, *SANITIZE],
            extra_link_args=[*SANITIZE, f"-Wl,--build-id=0x{digest(name).hex()}"],
        )
        for name in COMPILED
    ]


if __name__ == "__main__":
    setup(
        ext_modules=extensions(),
        cmdclass={"build_ext": BuildAll, "build_py": BuildWithCommit, "sdist": ArchiveWithCommit},
    )
