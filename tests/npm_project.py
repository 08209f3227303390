"""A project that has installed the npm package `eclipse-chat` and the frameworks of pages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests import needs

ROOT = Path(__file__).parents[1]
FRAMEWORKS = ROOT / "tests" / "browser" / "frameworks"
ABSENT = shutil.ignore_patterns("node_modules", "dist")


def make(folder: Path) -> Path:
    """Build, pack and install the package; answers the project's folder."""
    project, web = folder / "project", folder / "project" / "repository" / "web"
    shutil.copytree(FRAMEWORKS, project, ignore=ABSENT)
    # Below the project, whose tools build it: installing its own would take seconds.
    shutil.copytree(ROOT / "web", web, ignore=ABSENT)
    shutil.copytree(ROOT / "eclipse_ws" / "static", web.parent / "eclipse_ws" / "static")
    shutil.copy(ROOT / "LICENSE", web.parent)
    needs.npm_ci(project)
    run(web, needs.node(), "build-package.mjs")
    run(web, needs.npm(), "pack", "--ignore-scripts", "--pack-destination", str(folder))
    (tarball,) = folder.glob("eclipse-chat-*.tgz")
    run(project, needs.npm(), "install", "--offline", "--no-save", str(tarball))
    return project


def run(folder: Path, *command: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
