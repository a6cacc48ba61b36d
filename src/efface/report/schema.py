"""The published schema of audit.json, and a small checker for it.

The checker knows the keywords that ``audit.schema.json`` uses and no others, so that reading a run folder needs no
further package; the tests compare it with the jsonschema package on damaged files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

VERSION = "1.1"
"""What this package writes; every 1.x is read."""

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


@cache
def load_schema() -> dict[str, Any]:
    """Return the JSON schema of audit.json (draft 2020-12).

    Example:
        >>> load_schema()["type"]
        'object'
    """
    return json.loads(files("efface.report").joinpath("audit.schema.json").read_text(encoding="utf-8"))


def findings(value: Any, schema: dict[str, Any] | None = None, where: str = "") -> Iterator[str]:
    """Yield one line per place where ``value`` departs from the schema.

    Example:
        >>> list(findings({"value": "high"}, load_schema()["properties"]["fidelity"], "fidelity"))
        ["`fidelity.value` should be a number or null, but is 'high'"]
    """
    schema = load_schema() if schema is None else schema
    if "$ref" in schema:
        yield from findings(value, load_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]], where)
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"`{where}` should be one of {', '.join(map(repr, schema['enum']))}, but is {value!r}"
    allowed = _allowed(schema)
    if allowed and not any(_is(value, kind) for kind in allowed):
        yield f"`{where}` should be {_kinds(allowed)}, but is {_short(value)}"
    elif isinstance(value, dict):
        yield from _object_findings(value, schema, where)
    elif isinstance(value, list):
        yield from _array_findings(value, schema, where)


def _object_findings(value: dict[str, Any], schema: dict[str, Any], where: str) -> Iterator[str]:
    prefix = f"{where}." if where else ""
    for name in schema.get("required", ()):
        if name not in value:
            yield f"`{prefix}{name}` is missing"
    known = schema.get("properties", {})
    for name, item in value.items():
        part = known.get(name, schema.get("additionalProperties"))
        if part is not None:
            yield from findings(item, part, f"{prefix}{name}")


def _array_findings(value: list[Any], schema: dict[str, Any], where: str) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"`{where}` should have {schema['minItems']} items, but has {len(value)}"
    for index, item in enumerate(value):
        yield from findings(item, schema.get("items", {}), f"{where}[{index}]")


def _allowed(schema: dict[str, Any]) -> list[str]:
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    # JSON knows one kind of number: 3.0 is an integer.
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _kinds(kinds: list[str]) -> str:
    articles = {
        "object": "an object",
        "array": "a list",
        "integer": "an integer",
        "boolean": "true or false",
        "null": "null",
    }
    return " or ".join(articles.get(kind, f"a {kind}") for kind in kinds)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else repr(value)
