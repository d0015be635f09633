"""Schemas: the JSON schema of a tool's arguments, and whether arguments fit it.

Checked are types, `enum` and `const`, `required`, `properties`, `additionalProperties`, `items`,
and bounds of numbers, texts and lists. Other keywords are shown to models and not judged here.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from innkeeper.core.errors import Invalid
from innkeeper.core.events import json_bytes

MAX_SCHEMA = 64 * 1024
"""Bytes of JSON."""
_MAX_DEPTH = 16

_TYPES: Mapping[str, Callable[[object], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or float(str(value)).is_integer()),
    "number": lambda value: _is_number(value),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}
_BOUNDS: Mapping[str, tuple[type | tuple[type, ...], Callable[[Any, Any], bool], str]] = {
    "minimum": ((int, float), lambda value, bound: value >= bound, "must be at least {}"),
    "maximum": ((int, float), lambda value, bound: value <= bound, "must be at most {}"),
    "exclusiveMinimum": ((int, float), lambda value, bound: value > bound, "must be more than {}"),
    "exclusiveMaximum": ((int, float), lambda value, bound: value < bound, "must be less than {}"),
    "minLength": (str, lambda value, bound: len(value) >= bound, "must have at least {} characters"),
    "maxLength": (str, lambda value, bound: len(value) <= bound, "must have at most {} characters"),
    "minItems": (list, lambda value, bound: len(value) >= bound, "must have at least {} items"),
    "maxItems": (list, lambda value, bound: len(value) <= bound, "must have at most {} items"),
}


def object_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, from one, or from its properties alone. Others are refused where it does
    not say so, as a function refuses them.

    Raises: Invalid, which names the part of it that is wrong.
    """
    if len(json_bytes(parameters)) > MAX_SCHEMA:
        raise Invalid(f"parameters: may have at most {MAX_SCHEMA // 1024} KiB of JSON.", param="parameters")
    is_whole = parameters.get("type") == "object"
    schema: dict[str, Any] = dict(parameters) if is_whole else {"type": "object", "properties": dict(parameters)}
    schema.setdefault("properties", {})
    schema.setdefault("additionalProperties", False)
    _check_schema(schema, "parameters", 0, "parameters.properties" if is_whole else "parameters")
    for name in schema["properties"]:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise _wrong(f"parameters.{name}", "must be named as Python names a parameter")
    for name in schema.get("required", ()):
        if name not in schema["properties"]:
            raise _wrong("parameters.required", f"{name!r} is none of the properties")
    return schema


def _check_schema(schema: object, path: str, depth: int, inner: str | None = None) -> None:
    """That `check` can use it, whatever it says."""
    if not isinstance(schema, Mapping):
        raise _wrong(path, "must be a JSON schema, an object")
    if depth > _MAX_DEPTH:
        raise _wrong(path, f"is nested more than {_MAX_DEPTH} deep")
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not kinds or not all(isinstance(kind, str) and kind in _TYPES for kind in kinds):
            raise _wrong(f"{path}.type", f"must be of {', '.join(_TYPES)}")
    if "enum" in schema and not isinstance(schema["enum"], list):
        raise _wrong(f"{path}.enum", "must be a list")
    if not _are_texts(schema.get("required", [])):
        raise _wrong(f"{path}.required", "must be a list of names")
    for name in _BOUNDS:
        if name in schema and not _is_number(schema[name]):
            raise _wrong(f"{path}.{name}", "must be a number")
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        raise _wrong(f"{path}.properties", "must be an object")
    for name, one in properties.items():
        _check_schema(one, f"{inner or path}.{name}", depth + 1)
    for name in ("items", "additionalProperties"):
        if name in schema and not isinstance(schema[name], bool):
            _check_schema(schema[name], f"{path}.{name}", depth + 1)


def check(value: object, schema: Mapping[str, Any], path: str) -> None:
    """Raises: Invalid that names the first part of the value that does not fit a schema of `object_schema`."""
    _fit(value, schema, path, {})


def _fit(value: object, schema: Mapping[str, Any], path: str, choices: dict[int, frozenset[object]]) -> None:
    """`choices` has those of each `enum` that has been met, by its schema's id: a list may have many items."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_TYPES[kind](value) for kind in kinds):
        raise _wrong(path, f"must be of type {' or '.join(kinds)}")
    if "enum" in schema and _key(value) not in _choices(schema, choices):
        raise _wrong(path, f"must be one of {_shown(schema['enum'])}")
    if "const" in schema and _key(value) != _key(schema["const"]):
        raise _wrong(path, f"must be {_shown(schema['const'])}")
    for name, (kind, holds, told) in _BOUNDS.items():
        is_bound = name in schema and isinstance(value, kind) and not isinstance(value, bool)
        if is_bound and not holds(value, schema[name]):
            raise _wrong(path, told.format(schema[name]))
    if isinstance(value, dict):
        _fit_members(value, schema, path, choices)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, one in enumerate(value):
            _fit(one, schema["items"], f"{path}.{index}", choices)


def _fit_members(
    value: Mapping[str, object], schema: Mapping[str, Any], path: str, choices: dict[int, frozenset[object]]
) -> None:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            raise _wrong(f"{path}.{name}", "is required")
    for name, one in value.items():
        if name in properties:
            _fit(one, properties[name], f"{path}.{name}", choices)
        elif others is False:
            raise _wrong(f"{path}.{name}", "there is no such parameter")
        elif isinstance(others, Mapping):
            _fit(one, others, f"{path}.{name}", choices)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _choices(schema: Mapping[str, Any], known: dict[int, frozenset[object]]) -> frozenset[object]:
    found = known.get(id(schema))
    if found is None:
        found = known[id(schema)] = frozenset(map(_key, schema["enum"]))
    return found


def _key(value: object) -> object:
    """Equal for what JSON sees as equal, where `true` is no number."""
    return value if _is_number(value) else json_bytes(value)


def _are_texts(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)


def _shown(value: object) -> str:
    return json_bytes(value).decode()[:200]


def _wrong(path: str, reason: str) -> Invalid:
    return Invalid(f"{path[:200]}: {reason}.", param=path[:200])
