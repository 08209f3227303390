"""Prints what a registry with one image lacks of another: ``image_layers.py REGISTRY FIRST SECOND``.

``REGISTRY`` is a folder in the OCI image layout. Exits with 1 if that is more than one small layer. Called by
``scripts/image-test``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MOST_KILOBYTES = 1000


def layers(registry: Path, tag: str) -> dict[str, int]:
    """The image's layers, lowest first, by digest, with their compressed bytes."""

    def blob(digest: str) -> Any:
        return json.loads((registry / "blobs" / digest.replace(":", "/")).read_text())

    images = json.loads((registry / "index.json").read_text())["manifests"]
    name = "org.opencontainers.image.ref.name"
    (digest,) = [image["digest"] for image in images if image["annotations"][name] == tag]
    return {layer["digest"]: layer["size"] for layer in blob(digest)["layers"]}


def main(registry: Path, first: str, second: str) -> int:
    """Print the second image's layers. Returns the exit code."""
    before, after = layers(registry, first), layers(registry, second)
    for digest, size in after.items():
        print(f"{digest[7:19]} {size:>11,} bytes  {'stays' if digest in before else 'moves'}")
    moved = [size for digest, size in after.items() if digest not in before]
    print(f"{sum(moved):,} of {sum(after.values()):,} bytes move (at most {MOST_KILOBYTES * 1000:,})")
    if len(moved) == 1 and sum(moved) <= MOST_KILOBYTES * 1000:
        return 0
    print("FAULT: a change of the code moves more than the code's layer", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
