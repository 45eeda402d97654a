"""The fields of a policy file as types with bounds, by which one is read, written and described."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct, inspect

from offramp.cascades.files.validation import MOST_STAGES
from offramp.cascades.graph.costs import MAX_COST
from offramp.features.checks import CONTROL, LONGEST_NAME
from offramp.features.errors import InputError
from offramp.features.store.strictjson import brief

MOST_EXAMPLES = 2**53
LONGEST_TEXT = 10_000
LINE = rf"^(?![\s\S]*{CONTROL.pattern})"
"""``features.checks.is_text``, as a pattern that JSON Schema and Python read alike."""

Risk = Literal["increase", "error"]
"""What a certificate bounds: the loss over the largest stage's, or the loss."""

Text = Annotated[str, Meta(pattern=LINE, max_length=LONGEST_NAME)]
Prose = Annotated[str, Meta(pattern=LINE, max_length=LONGEST_TEXT)]
Share = Annotated[float, Meta(ge=0, le=1)]
Change = Annotated[float, Meta(ge=-1, le=1)]
Chance = Annotated[float, Meta(gt=0, lt=1)]
Cost = Annotated[float, Meta(ge=0, le=MAX_COST)]
Spent = Annotated[float, Meta(ge=0, le=MAX_COST * MOST_STAGES)]
Edge = Annotated[float, Meta(ge=-1e18, le=1e18)]
Count = Annotated[int, Meta(ge=0, le=MOST_EXAMPLES)]
Examples = Annotated[int, Meta(ge=1, le=MOST_EXAMPLES)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
StageNumber = Annotated[int, Meta(ge=0, le=MOST_STAGES - 1)]


class StageFields(Struct, frozen=True, forbid_unknown_fields=True):
    """What a stage costs, as ``graph.costs.StageCost``."""

    network: Text
    trunk: Cost
    head: Cost


class CostFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As in costs.json, every stage with network, trunk and head."""

    unit: Text
    device: Prose
    batch: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    stages: Annotated[dict[Text, StageFields], Meta(min_length=1, max_length=MOST_STAGES)]


class TargetFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked for: mean cost at most, mean loss over the largest stage's at most, one minus the mean loss at
    least, share exiting at a stage at most."""

    budget: Spent | None = None
    error_increase: Share | None = None
    accuracy: Share | None = None
    shares: dict[Text, Share]


class ExpectedFields(Struct, frozen=True, forbid_unknown_fields=True):
    """Per point, held out: mean cost and mean loss; the largest stage's mean loss; on how many examples."""

    cost: list[Spent]
    error: list[Share]
    reference: Share
    examples: Examples


class PlanFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Thresholds tuned jointly: a path, in words (not read back) and by the numbers of its stages, and its cuts."""

    path: str = ""
    stages: Annotated[list[StageNumber], Meta(min_length=1)]
    cuts: list[float | Literal["inf", "-inf"]]


class MixtureFields(Struct, frozen=True, forbid_unknown_fields=True):
    """Of two points: a coin of the seed sends this share of the examples the other way."""

    one: Count
    other: Count
    share: Share


class PoliciesFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As in policies.json: ``cascades`` in words, not read back; ``examples`` the digest of all that anything was
    fitted or picked on; ``sweep`` the fitted objects, as ``files.codec`` writes them."""

    format: Literal["offramp cascades"]
    version: Literal[1]
    cascades: Any = None
    thresholds: list[PlanFields]
    mixtures: list[MixtureFields]
    coin: Seed
    examples: Annotated[str, Meta(max_length=64)]
    sweep: Any


def plain_of(fields: Struct) -> dict[str, Any]:
    """The fields as JSON's own types, in their order; numbers of numpy's as Python's."""
    found: dict[str, Any] = msgspec.to_builtins(fields, enc_hook=_number)
    return found


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a policy file")


# --- reading, and how what doesn't fit is told

Fields = TypeVar("Fields")


def read_as(found: Any, kind: type[Fields], where: str) -> Fields:
    """``found``, of JSON's own types, as ``kind``. Raises InputError with the place below ``where`` where it is not."""
    try:
        return msgspec.convert(found, kind, strict=True)
    except msgspec.ValidationError as error:
        _refuse(found, inspect.type_info(kind), where)
        raise InputError("what this program writes", brief(error), where) from None


def _refuse(value: Any, kind: inspect.Type, where: str) -> None:
    """Raises InputError for the first thing in ``value`` that is not of its kind; as msgspec, but says where and what
    was found."""
    if isinstance(kind, inspect.Metadata):
        return _refuse(value, kind.type, where)
    if isinstance(kind, inspect.UnionType):
        inner = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        if len(inner) == 1:  # or null
            return None if value is None else _refuse(value, inner[0], where)
    if not _fits(value, kind):
        plain = isinstance(value, str | int | float | None)
        raise InputError(_told(kind), brief(ascii(value)) if plain else type(value).__name__, where)
    if isinstance(kind, inspect.StructType | inspect.DataclassType):
        names = [field.encode_name for field in kind.fields]
        strict = isinstance(kind, inspect.StructType) and kind.forbid_unknown_fields
        if strange := [key for key in value if strict and key not in names]:
            raise InputError(f"keys among {', '.join(names)}", brief(strange[0]), where)
        for name, field in zip(names, kind.fields, strict=True):
            if name in value:
                _refuse(value[name], field.type, f"{where}, {name}")
            elif field.required:
                raise InputError(_told(field.type), "none", f"{where}, {name}")
    elif isinstance(kind, inspect.DictType):
        for key, item in value.items():
            _refuse(key, kind.key_type, where)
            _refuse(item, kind.value_type, f"{where}, {brief(key)}")
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType):
        for i, item in enumerate(value):
            _refuse(item, kind.item_type, f"{where}, {i}")
    return None


def _fits(value: Any, kind: inspect.Type) -> bool:
    """Whether ``value`` itself is of its kind, whatever is in it."""
    match kind:
        case inspect.IntType() | inspect.FloatType():
            fine = type(value) is int or (type(value) is float and isinstance(kind, inspect.FloatType))
            low = kind.ge is None or (fine and value >= kind.ge)
            high = kind.le is None or (fine and value <= kind.le)
            inside = fine and (kind.gt is None or value > kind.gt) and (kind.lt is None or value < kind.lt)
            return inside and low and high
        case inspect.StrType():
            long = isinstance(value, str) and len(value) > (kind.max_length or len(value))
            return isinstance(value, str) and not long and re.search(kind.pattern or "", value) is not None
        case inspect.LiteralType():
            return any(type(value) is type(one) and value == one for one in kind.values)
        case inspect.UnionType():
            return any(_fits(value, one) for one in kind.types)
        case inspect.ListType() | inspect.VarTupleType() | inspect.DictType():
            right = isinstance(value, dict if isinstance(kind, inspect.DictType) else list)
            return right and (kind.min_length or 0) <= len(value) <= (kind.max_length or len(value))
        case inspect.StructType() | inspect.DataclassType():
            return isinstance(value, dict)
    return True


def _told(kind: inspect.Type) -> str:
    """What is expected, in words."""
    match kind:
        case inspect.Metadata():
            return _told(kind.type)
        case inspect.UnionType():
            return " or ".join(_told(one) for one in kind.types)
        case inspect.IntType():
            return f"a whole number from {kind.ge} to {kind.le}"
        case inspect.FloatType(gt=None, ge=None):
            return "a number"
        case inspect.FloatType(gt=None):
            return f"a number from {kind.ge:g} to {kind.le:g}"
        case inspect.FloatType():
            return f"a number between {kind.gt:g} and {kind.lt:g}"
        case inspect.StrType():
            return "a text" if kind.max_length is None else f"a line of text of at most {kind.max_length} characters"
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, kind.values))}"
        case inspect.NoneType():
            return "null"
        case inspect.ListType() | inspect.VarTupleType() | inspect.DictType():
            what = "an object" if isinstance(kind, inspect.DictType) else "a list"
            if kind.max_length is None:
                return f"{what} of at least {kind.min_length}" if kind.min_length else what
            return f"{what} of {f'{kind.min_length} to' if kind.min_length else 'at most'} {kind.max_length:,}"
    return "an object"
