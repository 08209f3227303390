"""The secrets of a development server: generated once, and saved in a private file for other commands."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from eclipse_ws.config.invocation import program
from eclipse_ws.config.problems import Problem
from eclipse_ws.config.profiles import parse_dotenv

NAME = ".eclipse-dev-secrets"
SECRETS = ("JWT_SECRET", "INTERNAL_API_SECRET")
HEADER = "# Generated for development only. Delete this file, and the next start generates new ones.\n"
LIMIT = 4096  # bytes; it is a few hundred


def fresh() -> str:
    """New random secrets, in the format of a `.env` file."""
    return "".join(f"{name}={secrets.token_urlsafe(48)}\n" for name in SECRETS)


def read(path: Path) -> tuple[dict[str, str], list[Problem]]:
    """The secrets in the file (none if it does not exist), or why they can't be trusted."""
    try:
        # We never create a link, or a pipe, which would block.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [_problem(path, f"can't be read ({error.strerror})")]
    try:
        problem = _why_not(os.fstat(file))
        if problem:
            return {}, [_problem(path, problem)]
        text = os.read(file, LIMIT).decode(errors="replace")
    finally:
        os.close(file)
    values, problems = parse_dotenv(path, text)
    if not problems and not all(values.get(name) for name in SECRETS):
        return {}, [_problem(path, f"does not contain both {' and '.join(SECRETS)}")]
    return {name: values[name] for name in SECRETS if values.get(name)}, problems


def keep(path: Path) -> None:
    """Write new secrets to the file unless it exists. Raises OSError if a file can't be private."""
    if os.path.lexists(path):
        return
    # Written under another name first, so that no process reads half a file.
    file, name = tempfile.mkstemp(prefix=f"{NAME}-", dir=path.parent)
    try:
        with open(file, "w", encoding="ascii") as opened:  # noqa: PTH123
            if _why_not(os.fstat(file)):
                raise OSError("files can't be private there")  # such as Windows' drives under WSL
            opened.write(HEADER + fresh())
            opened.flush()
            os.fsync(file)  # a crash must not leave an empty file
        with contextlib.suppress(FileExistsError):  # a concurrent start was faster: its secrets are used
            os.link(name, path)
    finally:
        Path(name).unlink()


def _why_not(about: os.stat_result) -> str:
    """Why a file is not private to us; empty if it is."""
    if not stat.S_ISREG(about.st_mode):
        return "is not a regular file"
    if about.st_uid != os.geteuid():
        return f"belongs to another user (uid {about.st_uid}, expected uid {os.geteuid()})"
    if about.st_mode & 0o077:
        return f"is accessible to others (its mode is {stat.S_IMODE(about.st_mode):04o}, expected 0600)"
    return ""


def _problem(path: Path, problem: str) -> Problem:
    return Problem(str(path), problem, f"delete it; `{program()} run` generates new secrets")
