"""The programs of Kubernetes in the folder `bin` beside that of cluster.sh, unpacked once."""

from __future__ import annotations

import subprocess
from pathlib import Path


def unpacked(packed: Path, folder: Path) -> Path:
    """Return `folder`, with the programs whose .xz files are in `packed`."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in packed.glob("*.xz"):
        target = folder / source.stem
        if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
            continue
        scratch = target.with_suffix(".part")
        with scratch.open("wb") as file:
            subprocess.run(["xz", "-dc", source], stdout=file, check=True)
        scratch.chmod(0o755)
        scratch.replace(target)
    return folder
