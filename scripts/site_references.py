"""References: the pages of the site that are written from the code, so that they cannot lag behind it.

Python names are only listed here, as mkdocstrings reads their signatures and docstrings from the sources. Routes come
from the document that `/openapi.json` answers, as the tests keep it, and errors from the server's own table.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MODULES = {
    "innkeeper": "reference/innkeeper.md",
    "innkeeper.client": "reference/client.md",
    "innkeeper.testing": "reference/testing.md",
}
_OPENAPI = "tests/snapshots/openapi.json"


def pages(root: Path) -> dict[str, str]:
    """Each page's place in the site and its Markdown."""
    document = json.loads((root / _OPENAPI).read_text(encoding="utf-8"))
    return {place: names_page(module) for module, place in MODULES.items()} | {
        "reference/http.md": "\n".join(_http_page(document)),
        "reference/errors.md": "\n".join(_errors_page()),
    }


def names_page(module: str) -> str:
    """Every public name of a module."""
    loaded = importlib.import_module(module)
    intro = inspect.getdoc(loaded) or ""
    entries = [_entry(module, name, getattr(loaded, name)) for name in loaded.__all__ if name != "__version__"]
    return "\n\n".join([f"# `{module}`", intro, *entries, ""])


def _entry(module: str, name: str, value: Any) -> str:
    """What mkdocstrings is to show. Fields of models say enough by their types, so that they have no docstrings."""
    shows_all = "true" if hasattr(value, "model_fields") or dataclasses.is_dataclass(value) else "false"
    return f"::: {module}.{name}\n    options:\n      show_if_no_docstring: {shows_all}"


def _http_page(document: Mapping[str, Any]) -> Iterator[str]:
    yield "# HTTP routes"
    yield "\nWritten from the document that a server answers at `/openapi.json`, which has every schema in full."
    yield "[Surfaces](../surfaces.md) tells how the routes are used.\n"
    for tag in document["tags"]:
        yield f"\n## {tag['name']}\n\n{tag.get('description', '')}\n"
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if tag["name"] in operation.get("tags", ()):
                    yield from _route(method, path, operation, document)


def _route(method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n### `{method.upper()} {path}`\n\n{operation.get('description', operation['summary'])}\n"
    yield f"Permission: `{operation['x-permission']}`\n"
    fields = [*_parameters(operation), *_body(operation, document)]
    if fields:
        yield "| Field | In | Type | Meaning |\n|---|---|---|---|"
        yield from (f"| {' | '.join(field)} |" for field in fields)
    yield "\n| Status | |\n|---|---|"
    for status, response in operation["responses"].items():
        yield f"| {status} | {_cell(response['description'].replace('Successful Response', 'Done.'))} |"


def _parameters(operation: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for one in operation.get("parameters", ()):
        yield (
            f"`{one['name']}`{_must(one.get('required'))}",
            one["in"],
            _type(one["schema"]),
            _cell(one.get("description")),
        )


def _body(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(content.get("schema", {}), document)
        if not schema.get("properties"):
            yield "the body", f"`{media_type}`", _type(schema), _cell(schema.get("description"))
        for name, field in schema.get("properties", {}).items():
            must = _must(name in schema.get("required", ()))
            yield f"`{name}`{must}", "body", _type(field), _cell(field.get("description"))


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('__')[2].rpartition('/')[2]}`"
    choices = schema.get("anyOf", schema.get("oneOf"))
    if choices:
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def _must(is_required: bool | None) -> str:
    return ", required" if is_required else ""


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _errors_page() -> Iterator[str]:
    from innkeeper.http.problems import PROBLEMS

    yield "# Errors\n\nEvery error that a client may meet. Its body is told in [Surfaces](../surfaces.md#errors);"
    yield "`x-should-retry` tells a client whether the same request may be sent again.\n"
    yield "| Status | `code` | `type` | `x-should-retry` | When |\n|---|---|---|---|---|"
    retries = {True: "true", False: "false", None: ""}
    for error, problem in sorted(PROBLEMS.items(), key=lambda row: (row[1].status, row[1].code)):
        when = _cell((inspect.getdoc(error) or "").partition("\n\n")[0])
        yield f"| {problem.status} | `{problem.code}` | `{problem.type}` | {retries[problem.retry]} | {when} |"
