"""The types of a policy file turned into its JSON Schema, for who reads such files with another program."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from typing import Any

import msgspec

from offramp.cascades.files.codec import NUMBERS, types
from offramp.cascades.files.policy import PolicyFields

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def policy_schema() -> dict[str, Any]:
    """JSON Schema of a policy file, draft 2020-12.

    The fitted objects are told by the names of their types and fields; what their arrays hold is checked by whoever
    reads the file, rule by rule (``files.validation``).

    >>> policy_schema()["$defs"]["PolicyFields"]["properties"]["version"]
    {'enum': [1]}
    """
    found = msgspec.json.schema(PolicyFields)
    objects = {name: _object(kind) for name, kind in types().items()}
    found["$defs"] |= objects | {"fitted": _fitted(sorted(objects))}
    found["$defs"]["PoliciesFields"]["properties"]["sweep"] = {"$ref": "#/$defs/Sweep"}
    return {"$schema": DIALECT, "title": "offramp policy, version 1", **found}


def _object(kind: type) -> dict[str, Any]:
    named = {f.name: {"$ref": "#/$defs/fitted"} for f in fields(kind)}
    properties = {"type": {"const": kind.__name__}, **named}
    required = ["type", *(f.name for f in fields(kind) if "absent" not in f.metadata)]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _fitted(names: list[str]) -> dict[str, Any]:
    """Anything in a fitted object: a plain value, an array, a map as pairs, a tuple as a list, another object."""
    itself = {"$ref": "#/$defs/fitted"}
    array = {
        "array": {"enum": sorted(NUMBERS)},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "values": {
            "type": "array",
            "items": {"anyOf": [{"type": ["number", "boolean"]}, {"enum": ["inf", "-inf", "nan"]}]},
        },
    }
    pairs = {"type": "array", "items": {"type": "array", "items": itself, "minItems": 2, "maxItems": 2}}
    return {
        "anyOf": [
            {"type": ["null", "boolean", "number", "string"]},
            {"type": "array", "items": itself},
            {"type": "object", "properties": array, "required": [*array], "additionalProperties": False},
            {"type": "object", "properties": {"map": pairs}, "required": ["map"], "additionalProperties": False},
            *({"$ref": f"#/$defs/{name}"} for name in names),
        ]
    }


def main() -> None:
    """Write the schema to standard output."""
    sys.stdout.write(json.dumps(policy_schema(), indent=1) + "\n")


if __name__ == "__main__":
    main()
