"""What GitHub runs: a valid workflow, which tries every Python that the package's metadata promises."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / ".github" / "workflows" / "ci.yml"


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    """The workflow as YAML."""
    read: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return read


def test_schema() -> None:
    """It is a workflow as GitHub's schema describes one."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", FILE]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_promised_python_is_tried(workflow: dict[str, Any]) -> None:
    """Its Pythons are the classifiers', and the oldest of them is what `requires-python` asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"


def test_it_runs_others_code_only_as_it_was_read(workflow: dict[str, Any]) -> None:
    """Actions are named by commit, tokens may only read, and every job ends."""
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for action in (step["uses"] for step in job["steps"] if "uses" in step):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)


def test_its_targets_are_the_makefiles(workflow: dict[str, Any]) -> None:
    """Every `make` of its steps has the targets that it names."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    named = [
        word
        for run in runs
        for line in re.findall(r"^make (.+)$", run, re.MULTILINE)
        for word in line.split()
    ]
    assert "test" in named
    assert targets.issuperset(named)
