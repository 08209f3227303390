"""Sources of settings: variables, profiles (TOML files) and `.env`; their names, and reading them."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from eclipse_ws.config.env_file import as_next_reads, glued
from eclipse_ws.config.invocation import program
from eclipse_ws.config.problems import Problem, cleaned, nearest
from eclipse_ws.config.settings import ENV_ONLY, LITERAL, SECRETS, variable

NAMES = ("dev", "test", "prod", "bench")
NODE_ENVS = {"production": "prod", "test": "test", "development": "dev", "": "dev"}
MAX_FILE = 256 * 1024  # bytes; a longer file is not a configuration


def from_variables(variables: Mapping[str, str], fields: Collection[str]) -> dict[str, Any]:
    """The fields that the variables set, cleaned up unless they are secrets; an empty one counts as unset."""
    values = {}
    for field in fields:
        value = variables.get(variable(field), "")
        if value := value if field in LITERAL else cleaned(value):
            values[field] = value
    return values


def unknown_variables(variables: Mapping[str, str], where: str, fields: Collection[str]) -> list[str]:
    """A warning for each unknown ECLIPSE_ variable."""
    known = {variable(field) for field in fields}
    sentences = []
    for name in sorted(variables):
        if name.startswith("ECLIPSE_") and name not in known:
            near = nearest(name, known)
            meant = f": did you mean {near}?" if near else f": `{program()} config` lists the settings."
            sentences.append(f"unknown setting {name} in {where}{meant}")
    return sentences


def choose(flag: str | None, given: Mapping[str, str]) -> tuple[str, str, list[Problem]]:
    """The profile, its source, and problems: --profile, else ECLIPSE_PROFILE, else NODE_ENV."""
    if flag:
        return flag, "--profile", []
    if profile := cleaned(given.get("ECLIPSE_PROFILE", "")):
        return profile, "ECLIPSE_PROFILE", []
    node_env = cleaned(given.get("NODE_ENV", ""))
    if node_env.lower() in NODE_ENVS:
        return NODE_ENVS[node_env.lower()], "NODE_ENV" if node_env else "default", []
    problem = f"is {node_env[:40]!r}, expected development, test or production"
    # Checked as production, so that the list of problems is complete.
    return "prod", "NODE_ENV", [Problem("NODE_ENV", problem, "set one of them, or choose with --profile")]


def known_keys(
    keys: Mapping[str, Any], profile: str, fields: Collection[str]
) -> tuple[dict[str, Any], list[Problem]]:
    """The permitted keys of a profile, and a problem for each other one."""
    allowed = set(fields) - SECRETS - ENV_ONLY
    problems = []
    for key in keys:
        name = f"profile {profile}"
        if key in SECRETS:
            fix = f"remove it, and set {variable(key)} in the environment or in .env"
            problems.append(Problem(name, f"contains the secret {key}", fix))
        elif key in fields and key not in allowed:
            fix = f"remove it; {variable(key)} comes from the environment"
            problems.append(Problem(name, f"sets {key}, which is not permitted in a profile", fix))
        elif key not in allowed:
            near = nearest(key.lower(), allowed)
            fix = f"write {near}" if near else f"remove it (`{program()} config` lists the keys)"
            problems.append(Problem(name, f"has the unknown key {key[:60]!r}", fix))
    return {key: value for key, value in keys.items() if key in allowed}, problems


def folders() -> list[Path]:
    """The folders of profiles: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return [package / "conf", package.parent / "conf"]


def is_path(profile: str) -> bool:
    """Whether `--profile` is a file rather than a name."""
    return "/" in profile or "\\" in profile or profile.endswith(".toml")


def read_profile(profile: str, chosen_by: str) -> tuple[dict[str, Any], list[Problem]]:
    """The profile's keys and values, or problems; `chosen_by` names the flag or variable that chose it."""
    import tomllib

    path = Path(profile).expanduser() if is_path(profile) else None
    if path is None:
        if profile not in NAMES:
            near = nearest(profile.lower(), NAMES)
            meant = f"did you mean {near}? " if near else ""
            problem = f"names the unknown profile {profile[:60]!r}"
            return {}, [
                Problem(chosen_by, problem, f"{meant}use {', '.join(NAMES)}, or a path such as ./mine.toml")
            ]
        path = next(
            (folder / f"{profile}.toml" for folder in folders() if (folder / f"{profile}.toml").is_file()),
            None,
        )
        if path is None:
            fix = "reinstall eclipse-ws, or give --profile a path"
            return {}, [
                Problem(chosen_by, f"names the profile {profile!r}, whose file is not installed", fix)
            ]
    text, problems = read_text(path)
    if problems:
        return {}, problems
    try:
        return tomllib.loads(text), []
    except tomllib.TOMLDecodeError as error:
        return {}, [Problem(str(path), f"is not valid TOML: {error}", "write lines such as `port = 8080`")]


def read_dotenv(path: Path) -> tuple[dict[str, str], list[Problem]]:
    """The variables of a `.env` file (none if it does not exist), or its problems."""
    if not path.exists():
        return {}, []
    text, problems = read_text(path)
    return ({}, problems) if problems else parse_dotenv(path, text)


def parse_dotenv(path: Path, text: str) -> tuple[dict[str, str], list[Problem]]:
    """The variables in the text of a `.env` file, and a problem for each invalid line."""
    from dotenv.parser import parse_stream  # the parser, because the loader only logs invalid lines

    values: dict[str, str] = {}
    problems: list[Problem] = []
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            line = binding.original.line
            problems.append(Problem(str(path), f"has an invalid line {line}", "write lines as NAME=value"))
        elif binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
            if second := glued(binding.key, binding.original.string.partition("=")[2]):
                problem = f"has two variables in line {binding.original.line}: {second} is in the value"
                fix = f"insert a line break before {second.removeprefix('another ')}"
                problems.append(Problem(str(path), f"{problem} of {binding.key[:60]}", fix))
    return values, problems


def parsed_differently(path: Path, values: Mapping[str, str]) -> list[str]:
    """A warning for each secret in a `.env` file that Next.js would parse differently."""
    text, problems = read_text(path) if path.exists() else ("", [])
    if problems:
        return []
    theirs = as_next_reads(text)
    return [
        f"{name} in {path.name} is parsed differently by Next.js, where # begins a comment, $ a reference, "
        f"and \\ is not an escape. Fix: use letters, digits, - and _ only (see `{program()} secrets`)."
        for name in ("JWT_SECRET", "INTERNAL_API_SECRET")
        if name in values and theirs.get(name) != values[name]
    ]


def read_text(path: Path) -> tuple[str, list[Problem]]:
    """The file's text, or the problem that prevents reading it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            return "", [Problem(str(path), f"has more than {MAX_FILE} bytes", "name a configuration file")]
        return data.decode("utf-8-sig"), []
    except OSError as error:
        return "", [
            Problem(
                str(path), f"can't be read ({error.strerror})", "check that the file exists and is readable"
            )
        ]
    except UnicodeDecodeError:
        return "", [Problem(str(path), "is not UTF-8 text", "save it as UTF-8")]
