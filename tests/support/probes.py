"""Probes: every place of every operation of an OpenAPI document where a text may stand, and a request for each.

A request is made twice, with a text that somebody else's answers told and with one that nobody knows.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

Json = dict[str, Any]
_HEADERS = ("idempotency-key", "x-request-id", "last-event-id", "traceparent", "x-session-token")
_IN_METADATA = ("user_id", "session_id", "organization_id", "run_id", "engine_id")
_SOURCES = ("function_code", "handler_function")
"""Programs, whose parser would tell one text from another."""
_HEX = re.compile(r"[0-9a-f]{8,}")


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    parameters: Sequence[Json]
    schema: Json | None
    form: Json | None = None
    is_binary: bool = False

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Place:
    """Where in the requests of an operation a text stands: `where` is path, query, header, body, form or metadata."""

    operation: Operation
    where: str
    name: str


@dataclass
class Document:
    """An OpenAPI document, and `own`: what a caller puts where nothing is probed, by the name of the parameter."""

    told: Json
    own: Mapping[str, str] = field(default_factory=dict)

    def operations(self) -> Iterator[Operation]:
        for path, methods in self.told["paths"].items():
            for method, operation in methods.items():
                content = operation.get("requestBody", {}).get("content", {})
                schema, form = (
                    self._resolved(content[kind]["schema"]) if kind in content else None
                    for kind in ("application/json", "multipart/form-data")
                )
                is_binary = "application/octet-stream" in content
                yield Operation(method.upper(), path, operation.get("parameters", ()), schema, form, is_binary)

    def places(self, operation: Operation) -> Iterator[Place]:
        for parameter in operation.parameters:
            if self._takes_text(parameter["schema"]):
                yield Place(operation, parameter["in"], parameter["name"])
        for name in _HEADERS:
            yield Place(operation, "header", name)
        if operation.schema is not None:
            for name, schema in operation.schema.get("properties", {}).items():
                if self._takes_text(schema):
                    yield Place(operation, "body", name)
            if "metadata" in operation.schema.get("properties", {}):
                yield from (Place(operation, "metadata", name) for name in _IN_METADATA)

        for name, schema in (operation.form or {}).get("properties", {}).items():
            if self._takes_text(schema) or self._takes_text(schema.get("items", {})):
                yield Place(operation, "form", name)

    def request(self, operation: Operation, place: Place | None = None, text: str = "", **other: str) -> Json:
        """What a client is told to send; `other` stands in the path's other places."""
        where, name = ("", "") if place is None else (place.where, place.name)
        path = operation.path
        for parameter in re.findall(r"{(\w+)}", path):
            value = text if (where, name) == ("path", parameter) else other.get(parameter, self.own.get(parameter, "x"))
            path = path.replace(f"{{{parameter}}}", value)
        query = {one["name"]: "x" for one in operation.parameters if one["in"] == "query" and one.get("required")}
        asked: Json = {"method": operation.method, "url": path, "params": query, "headers": {}}
        if where == "query":
            query[name] = text
        if where == "header":
            asked["headers"][name] = f"00-{text}-00f067aa0ba902b7-01" if name == "traceparent" else text
        if operation.schema is not None:
            asked["json"] = body = self._body(operation.schema)
            if where == "body":
                body[name] = f"'{text}' +" if name in _SOURCES else text
            elif where == "metadata":
                body["metadata"] = {**body.get("metadata", {}), name: text}
        elif operation.form is not None:
            asked |= self._filled(operation.form, name if where == "form" else "", text)
        elif operation.is_binary:
            asked["content"] = b"x"
        return asked

    def _filled(self, form: Json, probed: str, text: str) -> Json:
        """The fields and files of a form; of a file it is the name that is probed."""
        parts: Json = {}
        for name, schema in form["properties"].items():
            if name != probed and name not in form.get("required", ()):
                continue
            if schema.get("type") == "array" or schema.get("format") == "binary":
                parts[name] = (text if name == probed else "x.txt", b"x", "text/plain")
            else:
                parts[name] = (None, text if name == probed else self.own.get(name, self._made(schema)))
        return {"files": parts}

    def _body(self, schema: Json) -> Json:
        examples = schema.get("examples")
        body: Json = dict(examples[0]) if examples else self._made(schema)
        return {name: self.own.get(name, value) if isinstance(value, str) else value for name, value in body.items()}

    def _made(self, schema: Json) -> Any:
        schema = self._resolved(schema)
        if "enum" in schema or "const" in schema:
            return schema.get("const", *schema.get("enum", ())[:1])
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            wanted = schema.get("required", ())
            return {name: self._made(schema["properties"][name]) for name in wanted}
        if kind == "array":
            return [self._made(schema["items"])] if schema.get("minItems") else []
        if "anyOf" in schema:
            return self._made(schema["anyOf"][0])
        return {"integer": 1, "number": 1, "boolean": False}.get(str(kind), "x")

    def _resolved(self, schema: Json) -> Json:
        while "$ref" in schema:
            found: Any = self.told
            for step in schema["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            schema = found
        return schema

    def _takes_text(self, schema: Json) -> bool:
        schema = self._resolved(schema)
        if any(self._takes_text(one) for one in schema.get("anyOf", ())):
            return True
        return schema.get("type") == "string" and not {"enum", "const"} & schema.keys()


def unknown_like(text: str) -> str:
    """A text of the same shape, which nobody knows: other digits, and in what is hexadecimal other letters."""
    found = _HEX.sub(lambda one: _changed(one[0], "abcdef"), text)
    return found if found != text else _changed(text, "abcdefghijklmnopqrstuvwxyz")


def _changed(text: str, letters: str) -> str:
    return "".join(
        secrets.choice("0123456789") if one.isdigit() else secrets.choice(letters) if one.isalpha() else one
        for one in text
    )


def shown(answer: httpx2.Response, *texts: str) -> tuple[int, Any]:
    """What an answer tells; of an error all of it, but for what differs from one request to the next, as `texts` do."""
    if answer.is_success:
        return answer.status_code, None
    if "application/json" not in answer.headers.get("content-type", ""):
        return answer.status_code, _without(answer.text, texts)
    told = answer.json()
    told.pop("timestamp", None)
    told.pop("request_id", None)
    return answer.status_code, _without(str(told), texts)


def _without(told: str, texts: Sequence[str]) -> str:
    """Where they stand by themselves: a name may be a part of a word, too."""
    for text in texts:
        told = re.sub(rf"(?<![A-Za-z]){re.escape(text)}(?![A-Za-z])", "…", told)
    return told
