"""Loads settings from their sources: defaults < profile < `.env` < environment < flags.

The profile dev has one more source, below `.env`: the secrets that its first start generated and saved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eclipse_ws.config import dev_secrets, profiles, validation
from eclipse_ws.config.problems import Problem, SettingsError
from eclipse_ws.config.settings import HIDDEN, Settings, base_name, variable


@dataclass(frozen=True)
class Loaded:
    """Settings, each field's source, notes about generated values, and warnings about probable mistakes."""

    settings: Settings
    sources: dict[str, str]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    overridden: dict[str, list[str]] = field(default_factory=dict)
    """The overridden sources of each field, highest precedence first."""

    @property
    def profile(self) -> str:
        """The profile and its source."""
        return f"{self.settings.profile} ({self.sources['profile']})"

    @property
    def generated(self) -> frozenset[str]:
        """The fields that no source sets and that have a generated value."""
        return frozenset(name for name, source in self.sources.items() if source == "generated")


def load(
    profile: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = None,
    starting: bool = False,
    **flags: Any,
) -> Loaded:
    """Settings from all sources; a flag that is None is unset. Raises SettingsError (with all problems).

    ``starting``: a server starts with them, so secrets that are generated in development are saved.
    """
    environment = os.environ if environ is None else environ
    path = Path(".env") if dotenv is None else dotenv
    fields = Settings.model_fields
    from_file, problems = profiles.read_dotenv(path)
    given = {**from_file, **environment}
    warnings = profiles.unknown_variables(environment, "the environment", fields)
    warnings += profiles.unknown_variables(from_file, path.name, fields)

    name, chosen_by, more = profiles.choose(profile, given)
    problems += more
    keys, more = ({}, []) if more else profiles.read_profile(name, chosen_by)
    if more:
        # Other problems depend on the intended profile.
        raise SettingsError(problems + more)
    keys, more = profiles.known_keys(keys, name, fields)
    problems += more
    kept: dict[str, str] = {}
    notes: list[str] = []
    if base_name(name) == "dev" and not all(given.get(each) for each in dev_secrets.SECRETS):
        saved = path.with_name(dev_secrets.NAME)
        if starting:
            try:
                dev_secrets.keep(saved)
            except OSError as error:
                notes.append(f"can't save secrets in {saved}: {error.strerror or error}")
        kept, more = dev_secrets.read(saved)
        problems += more

    layers: list[tuple[str, dict[str, Any]]] = [
        (f"profile {name}", keys),
        (dev_secrets.NAME, profiles.from_variables(kept, fields)),
        (path.name, profiles.from_variables(from_file, fields)),
        ("environment", profiles.from_variables(environment, fields)),
        ("flag", {key: value for key, value in flags.items() if value is not None}),
    ]
    values: dict[str, Any] = {}
    setters: dict[str, list[str]] = {key: ["default"] for key in fields}
    for source, layer in layers:
        values.update(layer)
        for key in layer:
            setters[key].insert(0, source)
    # `choose` reads its own variables, in its own order.
    values["profile"] = name
    setters["profile"] = [
        chosen_by,
        *(["ECLIPSE_PROFILE"] if profile and given.get("ECLIPSE_PROFILE") else []),
    ]
    sources = {key: found[0] for key, found in setters.items()}

    texts = {problem.name: problem for problem in validation.check_texts(values, sources)}
    wrong = _drop_invalid(values, sources) | texts
    problems += wrong.values()
    settings = Settings(**values)
    problems += [
        problem for problem in validation.check(settings, sources, given) if problem.name not in wrong
    ]
    if not problems:
        generated = validation.generate(settings, sources, notes)
        settings = Settings(**{**values, **generated})
        sources.update(dict.fromkeys(generated, "generated"))
        warnings += validation.find_warnings(settings)
        warnings += profiles.parsed_differently(
            path, {name: value for name, value in from_file.items() if name not in environment}
        )
    if problems:
        raise SettingsError(problems)
    overridden = {key: [each for each in found[1:] if each != "default"] for key, found in setters.items()}
    return Loaded(settings, sources, notes, warnings, overridden)


def _drop_invalid(values: dict[str, Any], sources: Mapping[str, str]) -> dict[str, Problem]:
    """Remove values of a wrong type or out of range from `values`, so that the rest can be checked."""
    try:
        Settings(**values)
    except ValidationError as error:
        wrong: dict[str, Problem] = {}
        for detail in error.errors(include_url=False, include_context=False):
            name = str(detail["loc"][0])
            flag = sources[name] == "flag"
            label, shown = f"--{name.replace('_', '-')}" if flag else variable(name), values.get(name)
            expected = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            problem = "has an invalid value" if name in HIDDEN else f"is {str(shown)[:40]!r}"
            where = "" if sources[name] in ("environment", "flag") else f" ({sources[name]})"
            about = Settings.model_fields[name]
            fix = f"change it ({about.description}; the default is {about.default!r})"
            wrong[variable(name)] = Problem(label, f"{problem}{where}, expected {expected}", fix)
        for name in [name for name in values if variable(name) in wrong]:
            del values[name]
        return wrong
    return {}
