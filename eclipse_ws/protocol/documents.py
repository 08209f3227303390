"""API descriptions: AsyncAPI 3.0 for the socket and OpenAPI 3.1 for HTTP, generated from the types."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import msgspec

from eclipse_ws import __version__
from eclipse_ws.protocol import CloseCode, Command
from eclipse_ws.protocol import schema as types
from eclipse_ws.protocol.reports import Batch

SCHEMAS = "#/components/schemas/{name}"
TITLE = "eclipse-ws"


def asyncapi() -> dict[str, Any]:
    """The socket: what each side may send."""
    commands, events = get_args(Command), get_args(types.ServerFrame)
    schemas = _schemas((*commands, *events))
    messages = {
        kind.__name__: {
            "name": kind.__struct_config__.tag,
            "summary": _summary(kind),
            "contentType": "application/json",
            "payload": {"$ref": SCHEMAS.format(name=kind.__name__)},
        }
        for kind in (*commands, *events)
    }

    def refs(kinds: tuple[Any, ...]) -> list[dict[str, str]]:
        return [{"$ref": f"#/channels/session/messages/{kind.__name__}"} for kind in kinds]

    query = {
        "type": "object",
        "properties": {
            "token": {"type": "string", "description": "the application's token (JWT)"},
            "cursor": {"type": "string", "description": "the last cursor that this client saw"},
        },
    }
    closes = "; ".join(f"{close.code} {close.meaning}: {close.advice}" for close in CloseCode)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": TITLE,
            "version": __version__,
            "description": f"Text frames of JSON over a WebSocket. Close codes: {closes}.",
        },
        "servers": {"production": {"host": "chat.example.com", "protocol": "wss"}},
        "channels": {
            "session": {
                "address": "/ws",
                "description": "One session in the chat that its token names; `/` is the same.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {"ws": {"method": "GET", "query": query}},
            }
        },
        "operations": {
            "command": {
                "action": "receive",
                "channel": {"$ref": "#/channels/session"},
                "summary": "What a client may send.",
                "messages": refs(commands),
            },
            "event": {
                "action": "send",
                "channel": {"$ref": "#/channels/session"},
                "summary": "What the server sends; other types published by the application are forwarded.",
                "messages": refs(events),
            },
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def openapi() -> dict[str, Any]:
    """The HTTP routes."""
    bodies = (
        types.HealthDocument,
        types.Published,
        types.Disconnected,
        types.ChatPresence,
        types.DisconnectRequest,
        types.EventRequest,
        types.ErrorBody,
        Batch,
    )
    schemas = _schemas(bodies)

    def content(kind: Any) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": SCHEMAS.format(name=kind.__name__)}}}

    def answers(right: str, kind: Any, **wrong: str) -> dict[str, Any]:
        made: dict[str, Any] = {right: {"description": _summary(kind), "content": content(kind)}}
        for status, text in wrong.items():
            made[status.removeprefix("s")] = {"description": text, "content": content(types.ErrorBody)}
        return made

    health = {
        "summary": "Health of this node",
        "operationId": "health",
        "responses": {
            "200": {"description": "healthy, or degraded", "content": content(types.HealthDocument)},
            "503": {"description": "draining", "content": content(types.HealthDocument)},
        },
    }
    cors = {
        "summary": "CORS preflight: every page may request it",
        "operationId": "healthPreflight",
        "responses": {"200": {"description": "the Access-Control-Allow-* headers"}},
    }
    chat = {
        "name": "chatId",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[^\\x00-\\x1f\\x7f]+$"},
    }
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    }
    refusals = {
        "s400": "the body or the chat's id is invalid",
        "s401": "X-Internal-Secret is missing or wrong",
        "s429": "too many wrong secrets",
        "s503": "no secret is configured",
    }

    def called(
        summary: str, name: str, body: Any, answer: tuple[str, Any], *parameters: Any, **more: str
    ) -> Any:
        right, kind = answer
        return {
            "summary": summary,
            "operationId": name,
            "security": [{"internalSecret": []}],
            "parameters": parameters,
            "requestBody": {"required": body is types.EventRequest, "content": content(body)},
            "responses": answers(right, kind, **{**refusals, **more}),
        }

    publish = called(
        "Publish an event to a chat",
        "publishEvent",
        types.EventRequest,
        ("202", types.Published),
        chat,
        key,
        s413="the event is too large",
        s422="the Idempotency-Key was used for another event",
    )
    disconnect = called(
        f"End sessions of a chat on all nodes ({CloseCode.KICKED.code})",
        "disconnect",
        types.DisconnectRequest,
        ("200", types.Disconnected),
        chat,
        s409="the chat has too many bans (with until)",
        s413="the body is too large",
        s503="no secret is configured, or the backend is unavailable (with until)",
    )
    presence = {
        "summary": "Who is in a chat, on all nodes",
        "operationId": "presence",
        "security": [{"internalSecret": []}],
        "parameters": (chat,),
        "responses": answers("200", types.ChatPresence, **{**refusals, "s400": "the chat's id is invalid"}),
    }
    metrics = {
        "summary": "Prometheus metrics",
        "operationId": "metrics",
        "security": [{}, {"internalSecret": []}, {"bearer": []}],
        "responses": {
            "200": {
                "description": "all metrics",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            "401": {
                "description": "the secret is missing or wrong (on the public port of production)",
                "content": content(types.ErrorBody),
            },
            "429": {"description": refusals["s429"], "content": content(types.ErrorBody)},
        },
    }
    reports = {
        "summary": "What the server tells the application, at ECLIPSE_APP_EVENTS_URL",
        "operationId": "reports",
        "parameters": [
            {
                "name": "X-Signature",
                "in": "header",
                "required": True,
                "description": "`sha256=` and the HMAC-SHA256 of the body's bytes in lower-case hex; "
                "the key is INTERNAL_API_SECRET in UTF-8",
                "schema": {"type": "string", "pattern": "^sha256=[0-9a-f]{64}$"},
            }
        ],
        "requestBody": {"required": True, "content": content(Batch)},
        "responses": {
            "2XX": {"description": "taken"},
            "400": {"description": "can't be taken (also 413, 422): sent again one by one, then dropped"},
            "default": {"description": "sent again later"},
        },
    }
    script = {
        "200": {"description": "JavaScript", "content": {"text/javascript": {"schema": {"type": "string"}}}}
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": TITLE,
            "version": __version__,
            "description": "The HTTP routes: health, metrics, what the application may call and is sent.",
        },
        "servers": [{"url": "https://chat.example.com"}],
        "paths": {
            "/": {
                "get": {**health, "operationId": "root", "summary": "Health of this node"},
                "options": {**cors, "operationId": "rootPreflight"},
            },
            "/health": {"get": health, "options": cors},
            "/metrics": {"get": metrics},
            "/api/chats/{chatId}/events": {"post": publish},
            "/api/chats/{chatId}/disconnect": {"post": disconnect},
            "/api/chats/{chatId}/presence": {"get": presence},
            "/widget.js": {"get": {"summary": "The widget", "operationId": "widget", "responses": script}},
            "/eclipse-chat.js": {
                "get": {"summary": "The client", "operationId": "client", "responses": script}
            },
        },
        "webhooks": {"reports": {"post": reports}},
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "internalSecret": {"type": "apiKey", "in": "header", "name": "X-Internal-Secret"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def page(document: dict[str, Any]) -> str:
    """A document as a Markdown page: every operation and type, with its fields."""
    kind = "asyncapi" if "asyncapi" in document else "openapi"
    lines = [
        f"# {'WebSocket messages' if kind == 'asyncapi' else 'HTTP routes'}",
        "",
        f"Generated from the code by `make documents`, like [{kind}.yaml]({kind}.yaml).",
        "[protocol.md](protocol.md) explains the meaning.",
        "",
    ]
    schemas = document["components"]["schemas"]
    shown: list[str] = []
    if kind == "asyncapi":
        for title, name in (("Client to server", "command"), ("Server to client", "event")):
            lines += [f"## {title}", ""]
            for ref in document["operations"][name]["messages"]:
                shown.append(ref["$ref"].rsplit("/", 1)[1])
                lines += _fields(shown[-1], schemas[shown[-1]])
    else:
        for path, operations in {**document["paths"], **document["webhooks"]}.items():
            for method, operation in operations.items():
                codes = ", ".join(f"{c} {a['description']}" for c, a in operation["responses"].items())
                is_sent = path in document["webhooks"]
                lines += [
                    f"## `{method.upper()}` of {path} to the application"
                    if is_sent
                    else f"## `{method.upper()} {path}`",
                    "",
                    f"{operation['summary']}. Responses: {codes}",
                    "",
                ]
    rest = [name for name in schemas if name not in shown]
    if rest:
        lines += ["## Types", ""]
        for name in rest:
            lines += _fields(name, schemas[name])
    return "\n".join(lines).rstrip() + "\n"


def _fields(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"### {name}", "", schema.get("description", ""), "", "| field | type | |", "|---|---|---|"]
    for field, about in schema.get("properties", {}).items():
        must = "" if field in schema.get("required", ()) else "optional"
        lines.append(f"| `{field}` | {_type(about)} | {must} |")
    return [*lines, ""]


def _type(about: dict[str, Any]) -> str:
    if "$ref" in about:
        return str(about["$ref"].rsplit("/", 1)[1])
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    if "anyOf" in about:
        return " or ".join(map(_type, about["anyOf"]))
    if about.get("type") == "array":
        return f"list of {_type(about['items'])}"
    return str(about.get("type", "anything"))


def _schemas(kinds: tuple[Any, ...]) -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(kinds, ref_template=SCHEMAS)
    for schema in schemas.values():
        if "description" in schema:
            # A docstring, whose indentation Python keeps up to 3.12 and removes from 3.13 on.
            schema["description"] = inspect.cleandoc(schema["description"])
    return schemas


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n")[0].rstrip(".")
