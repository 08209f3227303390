"""The Dockerfile: one pinned base, and labels that match the project's metadata."""

from __future__ import annotations

import re
from datetime import datetime

import pytest

from scripts import image_labels
from tests.packaging.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_base_is_pinned() -> None:
    """A tag may be another image tomorrow, a digest never."""
    assert re.search(r"^ARG PYTHON=\S+:\S+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON}", "build", "scratch"}


def test_labels(capsys: pytest.CaptureFixture[str]) -> None:
    """Each label is the metadata's, or comes from an argument that `make image` gives."""
    image_labels.main()
    arguments = dict(re.findall(r"^--build-arg=(\w+)=(.*)$", capsys.readouterr().out, re.MULTILINE))
    assert datetime.fromisoformat(arguments["CREATED"]).tzinfo is not None
    written = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', DOCKERFILE))
    filled = {
        name: re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], text)
        for name, text in written.items()
    }
    expected = {name.removeprefix(image_labels.LABEL): value for name, value in image_labels.labels().items()}
    assert filled == {**expected, "created": arguments["CREATED"]}
