"""A user's JSON file turned into Python's own types, in bounded time, memory and depth."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from offramp.features.errors import InputError
from offramp.features.store.limits import (
    JSON_BYTES,
    JSON_CONTAINERS,
    JSON_DEPTH,
    JSON_VALUES,
    NUMBER_CHARACTERS,
    SHOWN,
)
from offramp.features.store.opening import read_bytes


def read_json(path: Path, what: str, largest: int = JSON_BYTES, by_hand: bool = False) -> Any:
    """The JSON in ``path``, which is to be ``what`` ("a policy file"), of ``largest`` bytes at most.

    ``by_hand``: people write such files, so that a byte order mark is passed over and a whole number of more than 64
    bits is a float. Raises InputError for what ``opened`` and ``parse_json`` refuse.
    """
    return parse_json(read_bytes(path, what, largest), what, str(path), by_hand)


def parse_json(content: bytes, what: str, where: str, by_hand: bool = False) -> Any:
    """The JSON in ``content``; see ``read_json``.

    Raises InputError(what, ..., where) for what is no JSON as the standard has it (NaN, infinity), nested too deeply,
    or more than ``too_much`` allows; for a key that stands twice, and for numbers that no double and no 64-bit integer
    holds.
    """

    def refuse(found: str) -> InputError:
        return InputError(what, found, where)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise refuse(f"the key {twice[:SHOWN]!r} twice")
        return found

    def whole(digits: str) -> int | float:
        if len(digits) <= 20 and -(2**63) <= int(digits) < 2**63:
            return int(digits)
        if by_hand:
            return real(digits)
        raise refuse(f"a whole number of {len(digits.lstrip('-'))} digits")

    def real(digits: str) -> float:
        if len(digits) > NUMBER_CHARACTERS or not math.isfinite(number := float(digits)):
            raise refuse(f"a number of {len(digits)} characters that is too large: {digits[:20]}")
        return number

    def constant(name: str) -> float:
        raise refuse(f"{name}, which is no number")

    if excess := too_much(content):
        raise refuse(excess)
    try:
        text = content.decode("utf-8-sig" if by_hand else "utf-8")
        found = json.loads(text, object_pairs_hook=once, parse_int=whole, parse_float=real, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise refuse(f"no text in UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start})") from None
    except json.JSONDecodeError as error:
        raise refuse(f"no JSON ({error.msg} in line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise refuse("JSON nested too deeply") from None
    level, depth = [found], 0
    while level := [child for one in level for child in _children(one) if isinstance(child, dict | list)]:
        depth += 1
        if depth >= JSON_DEPTH:
            raise refuse("JSON nested too deeply")
    return found


def _children(one: Any) -> Any:
    return one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def brief(found: object) -> str:
    """What was found, cut to what a line can hold; of an error its kind and what it says."""
    if isinstance(found, Exception):
        return f"{type(found).__name__} {str(found)[:SHOWN]}"
    return str(found)[:SHOWN]


def too_much(content: bytes) -> str:
    """What of a file's content is more than ``read_json`` would read; empty if nothing is."""
    if len(content) > JSON_BYTES:
        return f"more than {JSON_BYTES // 2**20} MB, which none has"
    if content.count(b"[") + content.count(b"{") > JSON_CONTAINERS or content.count(b",") > JSON_VALUES:
        return f"more than {JSON_VALUES:,} values or {JSON_CONTAINERS:,} lists, which none has"
    return ""
