"""Prints the build arguments for the image's labels: `docker build $(python3 -m scripts.image_labels) .`."""

from __future__ import annotations

import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from eclipse_ws import __version__

ROOT = Path(__file__).parents[1]
LABEL = "org.opencontainers.image."


def revision() -> str:
    """The commit, with ``-dirty`` if files differ from it; empty outside a git checkout."""
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git
        return ""
    return said.stdout.strip()


def labels() -> dict[str, str]:
    """The labels of an image of this tree, except the time."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        f"{LABEL}title": project["name"],
        f"{LABEL}description": project["description"],
        f"{LABEL}licenses": project["license"],
        f"{LABEL}source": project["urls"]["Repository"],
        f"{LABEL}version": __version__,
        f"{LABEL}revision": revision(),
    }


def main() -> None:
    """Print one argument per line, for the labels whose values the Dockerfile lacks."""
    values = {name: labels()[f"{LABEL}{name}"] for name in ("source", "version", "revision")}
    values["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    for name, value in values.items():
        print(f"--build-arg={name.upper()}={value}")


if __name__ == "__main__":
    main()
