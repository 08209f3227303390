"""The types of settings' values: their bounds, and how their texts are read."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

LEVELS = {"warn": "warning", "fatal": "critical", "trace": "debug", "verbose": "debug"}  # Node's names


def _workers(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _level(value: object) -> object:
    name = value.strip().lower() if isinstance(value, str) else value
    return LEVELS.get(name, name) if isinstance(name, str) else name


def _origins(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    return [_origin(v) if isinstance(v, str) else v for v in value] if isinstance(value, list) else value


def _hosts(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    return (
        [v.lower().rstrip(".") if isinstance(v, str) else v for v in value]
        if isinstance(value, list)
        else value
    )


def _roles(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip().upper() for part in value.split(",") if part.strip()]
    return value


def _origin(value: str) -> str:
    # As browsers write it: in lower case, without a path, and without the port that the scheme has anyway.
    value = re.sub(r"(?<=[^:/])/+$", "", value.lower())
    return re.sub(r"^(https://.*):443$|^(http://.*):80$", lambda found: found[1] or found[2], value)


def _cookie_names(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    for name in value if isinstance(value, list | tuple) else ():
        if not (isinstance(name, str) and re.fullmatch(r"[\w!#$%&'+.^`|~-]+\*?", name, re.ASCII)):
            raise ValueError("each must be a cookie's name, or the beginning of one and *")
    return value


Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Bytes = Annotated[int, Field(ge=1024, le=1 << 30)]
PerSecond = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Workers = Annotated[Literal["auto"] | Annotated[int, Field(ge=1, le=128)], BeforeValidator(_workers)]
Level = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_origins)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_hosts)]
Roles = Annotated[tuple[Literal["USER", "ASSISTANT", "AGENT"], ...], BeforeValidator(_roles)]
CookieNames = Annotated[tuple[str, ...], BeforeValidator(_cookie_names)]
