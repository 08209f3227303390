"""The text of a `.env` file: joined lines, and how Next.js parses the same text."""

from __future__ import annotations

import re

_NAMES = (
    r"(?:JWT_SECRET|INTERNAL_API_SECRET|NEXT_API_URL|REDIS_URL|ALLOWED_ORIGINS|LOG_LEVEL|NODE_ENV"
    r"|ECLIPSE_[A-Z_]{2,}|(?<![A-Z_])PORT)"
)
# Before the name of an option, or of a part of the value: -DNAME=, --NAME=, (NAME=.
_BEFORE = r"(?<![\s,;&?#(\[{|:])(?<!--)(?<!-[De])"
# A value follows the =: one or two = at the end are base64 padding.
_NAMED = re.compile(rf"{_BEFORE}({_NAMES})=(?!=?(?:\s|$))")
_OTHER = re.compile(rf"{_BEFORE}[A-Z]{{3,}}(?:_[A-Z0-9]{{3,}})+=(?!=?(?:\s|$))")

# The parser of npm's dotenv, and the expansion of dotenv-expand, as @next/env 16 has them.
_LINE = re.compile(
    r"""^\s*(?:export\s+)?([\w.-]+)(?:\s*=\s*?|:\s+?)"""
    r"""(\s*'(?:\\'|[^'])*'|\s*"(?:\\"|[^"])*"|\s*`(?:\\`|[^`])*`|[^#\r\n]+)?\s*(?:\#.*)?$""",
    re.MULTILINE | re.ASCII,
)
_QUOTED = re.compile(r"""^(['"`])([\s\S]*)\1$""")
_REFERENCE = re.compile(r"\$\{?(\w+)(?::-([^}\\]*))?\}?", re.ASCII)


def glued(name: str, text: str) -> str | None:
    """A probable second variable in a variable's text: its name and `=`; None if there is none.

    `echo NAME=value >> .env` joins two lines if the last one has no line break. ``text`` is everything after
    the first `=`; in quotes it may contain anything.
    """
    text = text.strip()
    if text.startswith(("'", '"')):
        return None
    if found := _NAMED.search(text, 1):
        return f"{found[1]}="
    # Another application's names matter only if they corrupt a value of ours.
    return "another NAME=" if re.fullmatch(_NAMES, name) and _OTHER.search(text, 1) else None


def as_next_reads(text: str) -> dict[str, str]:
    """The variables as Next.js parses them, if no other variable is set."""
    values = {}
    for found in _LINE.finditer(re.sub(r"\r\n?", "\n", text)):
        value = (found[2] or "").strip()
        quote = value[:1]
        value = _QUOTED.sub(lambda inner: inner[2], value)
        if quote == '"':
            value = value.replace("\\n", "\n").replace("\\r", "\r")
        values[found[1]] = _expand(value)
    return values


def _expand(value: str) -> str:
    # From right to left, so that it terminates: the text before the last reference never grows.
    end = len(value)
    while (at := _last_dollar(value, end)) >= 0:
        found = _REFERENCE.search(value, at)
        if found is None:
            break
        value = value[: found.start()] + (found[2] or "") + value[found.end() :]
        end = at
    return value.replace("\\$", "$")


def _last_dollar(value: str, end: int) -> int:
    """The index of the last unescaped `$` before ``end``; -1 if there is none."""
    at = value.rfind("$", 0, end)
    while at > 0 and value[at - 1] == "\\":
        at = value.rfind("$", 0, at)
    return at
