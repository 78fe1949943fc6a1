"""An image with an index of platforms, as a registry has it, in a file that `docker load` reads (OCI layout)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

KIND = "application/vnd.oci.image"


def write(target: Path, name: str, layers: Mapping[str, Path]) -> None:
    """Write the image `name`, with the full reference, of one uncompressed layer for each platform, as linux/arm/v7."""
    with tarfile.open(target, "w") as tar:
        manifests = []
        for platform, layer in layers.items():
            added = _add(tar, f"{KIND}.layer.v1.tar", layer.read_bytes())
            described = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
            config = {"config": {"Cmd": ["bash"]}, "rootfs": {"type": "layers", "diff_ids": [added["digest"]]}}
            manifest = {
                "schemaVersion": 2,
                "mediaType": f"{KIND}.manifest.v1+json",
                "config": _add(tar, f"{KIND}.config.v1+json", _json(described | config)),
                "layers": [added],
            }
            manifests.append(_add(tar, manifest["mediaType"], _json(manifest)) | {"platform": described})
        index = _index(manifests)
        named = {"annotations": {"io.containerd.image.name": name}}
        _file(tar, "index.json", _json(_index([_add(tar, index["mediaType"], _json(index)) | named])))
        _file(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))


def _index(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": f"{KIND}.index.v1+json", "manifests": manifests}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _add(tar: tarfile.TarFile, kind: object, raw: bytes) -> dict[str, Any]:
    """Add a blob and return its descriptor."""
    digest = sha256(raw).hexdigest()
    _file(tar, f"blobs/sha256/{digest}", raw)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(raw)}


def _file(tar: tarfile.TarFile, path: str, raw: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(raw)
    tar.addfile(entry, io.BytesIO(raw))
