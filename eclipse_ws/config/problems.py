"""Problems of single configuration values; their texts never contain a secret."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from eclipse_ws.config.invocation import program

MIN_SECRET_BYTES = 32  # HS256's key must be as long as its hash (RFC 7518 section 3.2)
MASK = "********"
# Placeholders in documentation. A phrase counts only if the whole value consists of words: a random secret
# that happens to contain one, or a `<` and a `>`, is valid.
_WORDS = re.compile(r"[a-z]+(?:[-_ .,:!?']+[a-z0-9]+)*[-_ .!?0-9]*", re.IGNORECASE)
_PHRASE = re.compile(
    r"^(?:(?:add|enter|insert|paste|put|set|use)[-_ .])?your[-_ ]|^insert[-_ ]|(?<![a-z])placeholder"
    r"|change[-_ ]?(?:me|this|it)(?![a-z])|(?<![a-z])change[-_ ]in[-_ ]"
    r"|replace[-_ ]?(?:me|this|with)(?![a-z])",
    re.IGNORECASE,
)
_BRACKETS = re.compile(
    r"<[\w .,:'-]+>|\[[\w .,'-]+\]|\$?\{{1,2}[\w .-]+\}{1,2}|x{3,}|\.{3,}|[*•]{3,}", re.IGNORECASE
)
_ALONE = re.compile(
    "secret|password|jwt[-_]?secret|default|test|todo|tbd|dummy|example|none|null|undefined", re.IGNORECASE
)
# A name in a host: people have registered `your-this` and `your-that`.
_HOST_NAME = re.compile(
    r"your(?:[\w-]*[-_])?(?:api|app|company|database|db|domain|endpoint|host|instance|name|org|project|redis"
    r"|server|site|url|website)(?:[-_][\w-]*)?",
    re.IGNORECASE,
)
# Characters that could forge a line or control a terminal: C0, DEL, C1, line and bidi controls, surrogates.
CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Invisible characters that pasting may add: soft hyphen, zero width, byte order mark.
_INVISIBLE = "\u00ad\u200b-\u200d\u2060\ufeff"
_AROUND = re.compile(rf"^[\s{_INVISIBLE}]+|[\s{_INVISIBLE}]+$")
_HIDDEN = re.compile(rf"{CONTROL.pattern}|[{_INVISIBLE}]")
_UNSEEN = re.compile(f"[{_INVISIBLE}\ud800-\udfff]")
_NOT_IN_HEADER = re.compile("[^\x20-\x7e\x80-\xff]")
_QUOTED = re.compile(r"""(["'`])((?:(?!\1).)*)\1""", re.DOTALL)
_KEY = re.compile(
    r"-----\s?BEGIN [A-Z0-9 ]+|LS0tLS1CRUdJTi|(?:ssh-|ecdsa-sha2-)\S+ \S|[{\[].*\"(?:kty|keys)\"\s*:",
    re.DOTALL,
)
# Permitted options in a DATABASE_URL, by libpq's names; asyncpg sends those of other clients to the server.
DATABASE_OPTIONS = frozenset(
    ("sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port", "options", "application_name")
)


class Problem(NamedTuple):
    """One problem: the variable's (or file's) name, what is wrong, and how to fix it."""

    name: str
    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.name} {self.text}. Fix: {self.fix}."


class SettingsError(Exception):
    """The configuration is invalid; `problems` has all problems, and `str()` lists them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"The configuration has {count}:{lines}")


def printable(text: str) -> str:
    """The text with control characters escaped, safe for one line of a log or terminal."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to `name`, or None; `PORT` is similar to `ECLIPSE_PORT`."""
    # Without the prefix, which would make all names similar.
    bare = {choice.removeprefix("ECLIPSE_"): choice for choice in known}
    found = difflib.get_close_matches(name.removeprefix("ECLIPSE_"), bare, n=1, cutoff=0.75)
    return bare[found[0]] if found else None


def cleaned(value: str) -> str:
    """A value that is not a secret, without surrounding white space and invisible characters, and without the
    quotes that `docker run --env-file` keeps.
    """
    value = _AROUND.sub("", value)
    quoted = _QUOTED.fullmatch(value)
    return _AROUND.sub("", quoted[2]) if quoted else value


def check_text(name: str, value: str) -> list[Problem]:
    """A problem if a value that is not a secret contains control or invisible characters."""
    if found := _HIDDEN.search(value):
        problem = f"contains {_character(found[0])}"
        return [Problem(name, problem, "type the value in one line instead of pasting it")]
    return []


def check_secret_text(name: str, value: str, *, quoted: bool) -> list[Problem]:
    """Problems of a secret that the application may parse differently.

    ``quoted`` says whether surrounding quotes are part of it: they are if no parser removed them.
    """
    if _KEY.match(value.strip()):
        return []  # `check_secret` reports it
    fix = f"remove it, here and in the application's {name}"
    if found := _AROUND.search(value):
        where = "begins" if found.start() == 0 else "ends"
        hint = ", as `echo` writes it" if where == "ends" and "\n" in found[0] else ""
        return [Problem(name, f"{where} with {_character(found[0])}{hint}", fix)]
    if quoted and (found := _QUOTED.fullmatch(value)):
        problem = f"is in quotes ({found[1]}), which are part of the value here"
        fix = "remove the quotes: `docker run --env-file` and similar tools keep them"
        return [Problem(name, problem, fix)]
    if found := _UNSEEN.search(value):
        return [Problem(name, f"contains invisible text: {_character(found[0])}", fix)]
    if name == "INTERNAL_API_SECRET" and (found := _NOT_IN_HEADER.search(value)):
        return [Problem(name, f"contains {_character(found[0])}, which HTTP headers can't contain", fix)]
    return []


def _character(text: str) -> str:
    """The name of an invisible character."""
    char = text[0]
    if "\ud800" <= char <= "\udfff":
        return "bytes that are not UTF-8"
    usual = {
        " ": "a space",
        "\t": "a tab",
        "\n": "a line break",
        "\r": "a line break",
        "\xa0": "a no-break space",
    }
    return usual.get(char, f"the character U+{ord(char):04X}")


def is_placeholder(value: str) -> bool:
    """Whether a value is a placeholder as in documentation (`your-jwt-secret-here`).

    The whole value must be one, or, in a URL, its user name, its password or a label of its host.
    """
    value = value.strip()
    if "://" not in value:
        return _is_phrase(value) or _ALONE.fullmatch(value) is not None
    userinfo, _, place = value.partition("://")[2].partition("/")[0].rpartition("@")
    labels = re.sub(r":[^:\]]*$", "", place).split(".")
    return any(_is_phrase(unquote(part)) for part in userinfo.split(":", 1)) or any(
        _BRACKETS.fullmatch(label) or _HOST_NAME.fullmatch(label) for label in labels
    )


def _is_phrase(text: str) -> bool:
    if _BRACKETS.fullmatch(text):
        return True
    return _WORDS.fullmatch(text) is not None and _PHRASE.search(text) is not None


def mask_url(url: str) -> str:
    """The URL with its password (or a lone user name) masked; anything else is masked completely."""
    try:
        parts = urlsplit(url)
        if not parts.scheme or not (parts.netloc or parts.path):
            return MASK
        if parts.query:
            parts = parts._replace(query=MASK)
        if "@" not in parts.netloc:
            return urlunsplit(parts)
        userinfo, _, place = parts.netloc.rpartition("@")
        user, colon, _ = userinfo.partition(":")
        return urlunsplit(parts._replace(netloc=f"{user if colon else MASK}:{MASK}@{place}"))
    except ValueError:
        return MASK


def check_secret(name: str, value: str, production: bool) -> list[Problem]:
    """Problems of a secret: a placeholder anywhere; too short or too uniform in production."""
    fresh = f"set a new one (`{program()} secrets` prints some), the same as the application's {name}"
    if is_placeholder(value):
        return [Problem(name, "is a placeholder", fresh)]
    if _KEY.match(value.strip()):
        fix = "set ECLIPSE_JWT_PUBLIC_KEY to the public key; " if name == "JWT_SECRET" else ""
        return [Problem(name, "is a key in PEM, SSH or JWK format, not a secret", f"{fix}{fresh}")]
    size = len(value.encode("utf-8", "surrogateescape"))
    if production and size < MIN_SECRET_BYTES:
        return [Problem(name, f"has {size} bytes, expected at least {MIN_SECRET_BYTES} in production", fresh)]
    if production and _repeats(value):
        return [Problem(name, "repeats a few characters, so it can be guessed", fresh)]
    return []


def _repeats(value: str) -> bool:
    """Whether a text has very few distinct characters, or repeats one piece; a random one never does."""
    repeated = any(value[size:] == value[:-size] for size in range(1, len(value) // 2 + 1))
    return repeated or len(set(value)) < 6


def check_database_url(url: str) -> list[Problem]:
    """Problems of a DATABASE_URL."""
    name, fix = "DATABASE_URL", "set it to postgresql://user:password@host:5432/database"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return [Problem(name, "is not a valid URL", f"{fix}; write / @ # ? of a password as %2F %40 %23 %3F")]
    if parts.scheme not in ("postgresql", "postgres") or not parts.netloc or parts.fragment:
        return [Problem(name, "is not of the form postgresql://user:password@host:port/database", fix)]
    if is_placeholder(url):
        return [Problem(name, "contains a placeholder", fix)]
    for option, _ in parse_qsl(parts.query, keep_blank_values=True):
        if option not in DATABASE_OPTIONS:
            problem = f"has an option {option[:40]!r} that this server does not support"
            fix = "remove it; other libraries' options, such as Prisma's, are errors in PostgreSQL"
            return [Problem(name, problem, fix)]
    return []


def check_api_url(url: str) -> list[Problem]:
    """Problems of a NEXT_API_URL."""
    why = "so it can't be a prefix of the API's routes"
    fix = "the application's address, such as https://app.example.com"
    return _check_http_url("NEXT_API_URL", url, fix, why)


def check_events_url(url: str) -> list[Problem]:
    """Problems of an ECLIPSE_APP_EVENTS_URL."""
    fix = "the address of the application's route, such as https://app.example.com/api/chat-events"
    why = "which the reports are not sent with"
    return _check_http_url("ECLIPSE_APP_EVENTS_URL", url, fix, why)


def _check_http_url(name: str, url: str, what: str, no_query: str) -> list[Problem]:
    fix = f"set it to {what}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return [Problem(name, "is not a valid URL", fix)]
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", url):
        return [Problem(name, "is not an http:// or https:// URL", fix)]
    if "@" in parts.netloc:
        return [
            Problem(
                name,
                "contains a user name or password",
                "remove them: INTERNAL_API_SECRET authenticates this server",
            )
        ]
    if parts.query or parts.fragment:
        return [Problem(name, f"has a query or fragment, {no_query}", fix)]
    if is_placeholder(url):
        return [Problem(name, "is a placeholder", fix)]
    return []


def origin_of(url: str) -> str:
    """The origin (RFC 6454: scheme, host, and the port unless it is the scheme's own) of an http(s) URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    own = {"http": 80, "https": 443}.get(parts.scheme)
    port = "" if parts.port in (None, own) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def check_host(pattern: str) -> list[Problem]:
    """Problems of one entry of ECLIPSE_ALLOWED_HOSTS: a name, or `*.example.com`."""
    if re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", pattern):
        return []
    problem = f"contains {pattern[:60]!r}, which is not a host name"
    fix = "list names without scheme and port, separated by commas: chat, chat.example.com, *.example.com"
    return [Problem("ECLIPSE_ALLOWED_HOSTS", problem, fix)]


def check_origin(pattern: str) -> list[Problem]:
    """Problems of one entry of ALLOWED_ORIGINS: an exact origin of any scheme, or `https://*.example.com`."""
    if pattern in ("null", "file://") or re.fullmatch(
        r"(https?://(\*\.)?|[a-z][a-z0-9+.-]*://)([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?",
        pattern,
        re.IGNORECASE,
    ):
        return []
    return [
        Problem(
            "ALLOWED_ORIGINS",
            f"contains {pattern[:60]!r}, which is not an origin",
            "list origins as browsers send them, without a path, separated by commas: "
            "https://app.example.com, https://*.example.com, capacitor://localhost",
        )
    ]
