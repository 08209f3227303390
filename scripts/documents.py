"""Writes the generated documents into ``docs/``: ``make documents``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from prometheus_client.core import Metric

from eclipse_ws.commands import config
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import documents
from eclipse_ws.server.metrics import NodeCollector
from eclipse_ws.server.server import Server
from eclipse_ws.server.workers.totals import supervisor_metrics

DOCS = Path(__file__).parents[1] / "docs"
HEAD = "# Generated from the code by `make documents`; don't edit.\n"


def written() -> dict[str, str]:
    """The text of each file."""
    made = {"settings.md": settings_page(), "metrics.md": metrics_page()}
    for name, document in (("asyncapi", documents.asyncapi()), ("openapi", documents.openapi())):
        made[f"{name}.yaml"] = HEAD + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
        made[f"{name}.md"] = documents.page(document)
    return made


def settings_page() -> str:
    """Every setting in Markdown, under the headings of the source."""
    known, headings = config.settings(), _headings()
    lines = [
        "# Settings",
        "",
        "Generated from the code by `make documents`.",
        "",
        "A value comes from the first source that sets it: a flag of `eclipse-ws run`, the environment,",
        "`.env`, the profile, the default. A profile names a setting by its variable in lower case, without",
        "`ECLIPSE_`, and contains no secrets. `eclipse-ws config --explain NAME` shows a value's source.",
        "",
        "*Reload*: a running server applies a new value on SIGHUP; the other settings need a restart.",
    ]
    for name, about in known.items():
        if name in headings:
            lines += ["", f"## {headings[name]}", "", "| variable | meaning | values | default | reload |"]
            lines.append("|---|---|---|---|---|")
        default = about.default if about.default == "unset" else f"`{about.default}`"
        cells = (f"`{about.variable}`", about.description, about.values, default, "yes" * about.reloaded)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _headings() -> dict[str, str]:
    """The comment above each group of settings, by the group's first field."""
    found = re.findall(r"\n\n    # (.+)\n    (\w+):", inspect.getsource(Settings))
    return {name: heading for heading, name in found}


def metrics_page() -> str:
    """Every metric in Markdown, as an idle server emits them."""
    values = {"profile": "test", "api": "embedded", "jwt_secret": "x" * 32, "internal_api_secret": "y" * 32}
    node = Server(Settings.model_validate(values)).node
    lines = [
        "# Metrics",
        "",
        "Generated from the code by `make documents`: what `/metrics` returns, in Prometheus' text format.",
        "No label contains a chat, a user or a session. [operate.md](operate.md) describes the alerts.",
        "With several workers it is the machine's page: [deploy.md](deploy.md#several-cores).",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for family in (*NodeCollector(node).collect(), *supervisor_metrics(0, {})):
        suffix = "_total" if family.type == "counter" else ""
        labels = "; ".join(f"`{name}`: {text}" if text else f"`{name}`" for name, text in _labels(family))
        lines.append(f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def _labels(family: Metric) -> Iterator[tuple[str, str]]:
    """Each label with its values, if they are fixed."""
    values: dict[str, list[str]] = {}
    for sample in family.samples:
        for name, value in sample.labels.items():
            values.setdefault(name, []).append(value)
    for name, found in values.items():
        yield name, ", ".join(found) if len(found) > 1 else ""


if __name__ == "__main__":
    for file, text in written().items():
        (DOCS / file).write_text(text, encoding="utf-8")
