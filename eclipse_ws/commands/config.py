"""Explains settings: their values, defaults, and where their values come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from eclipse_ws.config.loading import Loaded
from eclipse_ws.config.problems import nearest, printable
from eclipse_ws.config.settings import RELOADED, SECRETS, Settings, masked, variable


@dataclass(frozen=True)
class Setting:
    """A field of Settings, as text."""

    variable: str
    description: str
    values: str
    """The permitted values."""
    default: str
    secret: bool
    reloaded: bool
    """Whether a running server applies a new value."""


def settings() -> dict[str, Setting]:
    """Every setting by its field name, in the order of the source."""
    fields: dict[str, dict[str, Any]] = Settings.model_json_schema()["properties"]
    return {
        name: Setting(
            variable=variable(name),
            description=field["description"],
            values=_values(field),
            default=_as_text(field["default"]),
            secret=name in SECRETS,
            reloaded=name in RELOADED,
        )
        for name, field in fields.items()
    }


def find(names: Iterable[str]) -> list[str]:
    """The fields that these variables or fields name, or all; ValueError for an unknown name."""
    known = settings()
    by_name = {name: name for name in known} | {each.variable.lower(): name for name, each in known.items()}
    found = []
    for name in names:
        key = name.lower().replace("-", "_")
        if key not in by_name:
            near = nearest(name.upper().replace("-", "_"), [each.variable for each in known.values()])
            meant = f"did you mean {near}?" if near else "`eclipse-ws config` lists the settings."
            raise ValueError(f"unknown setting {printable(name[:60])}: {meant}")
        found.append(by_name[key])
    return found or list(known)


def explain(loaded: Loaded, names: Iterable[str]) -> str:
    """A paragraph for each of these fields."""
    known = settings()
    return "\n\n".join(_paragraph(loaded, name, known[name]) for name in names)


def _paragraph(loaded: Loaded, name: str, about: Setting) -> str:
    source, overridden = loaded.sources[name], loaded.overridden[name]
    rows = {
        "value": _as_text(masked(loaded.settings, name)),
        "from": source + (f", which overrides {', '.join(overridden)}" if overridden else ""),
        "expected": about.values,
        "default": about.default,
        "reload": "SIGHUP applies a new value" if about.reloaded else "a new value needs a restart",
    }
    lines = [f"  {title:<10}{text}" for title, text in rows.items()]
    return "\n".join([about.variable, f"  {about.description}", *lines])


def _values(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        first, *others = map(_values, field["anyOf"])
        return ", or ".join([first, *others])
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return ", ".join(field["enum"])
    kind = field["type"]
    if kind == "null":
        return "unset"
    if kind in ("integer", "number"):
        low = (
            f"above {field['exclusiveMinimum']}"
            if "exclusiveMinimum" in field
            else f"from {field['minimum']}"
        )
        return f"{'whole number' if kind == 'integer' else 'number'} {low} to {field['maximum']}"
    if kind == "boolean":
        return "true or false"
    if kind == "array":
        return "list, separated by commas"
    text = "secret text" if field.get("format") == "password" else "text"
    if "maxLength" in field:
        text += f" of at most {field['maxLength']} characters"
    if "pattern" in field:
        text += f" that matches {field['pattern']}"
    return text


def _as_text(value: Any) -> str:
    if value in (None, "", []):
        return "unset"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return printable(", ".join(value) if isinstance(value, list) else str(value))
