"""A frozen dataclass turned into a command line, and a command's failures into one line and an exit code."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from offramp.features.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")
BAD_INPUT, FAILED, PIPE_CLOSED, INTERRUPTED = 2, 1, 141, 130
"""Exit codes; the last two are 128 plus the signal's number, as shells have it."""
MEANING = {int: "a whole number", float: "a finite number"}
BOUNDS = {"minimum": "at least", "maximum": "at most"}
MOST = sys.float_info.max


def parse(settings: type[Settings], argv: Sequence[str] | None, prog: str, description: str) -> Settings:
    """The command line ``argv`` (None: the process's own) as one instance of the dataclass ``settings``.

    A field ``some_name`` is the flag ``--some-name``; without a default it must be given. Its type is bool
    (``--x`` and ``--no-x``), any type that is made from a text, such as str, int, float and Path, a tuple of these
    (``a,b`` or ``a b``), or one of them or None. Its metadata may hold ``help``, ``choices``, ``minimum`` and
    ``maximum``. Raises InputError for what is not among these; ``--help`` prints and exits.
    """
    # argparse only splits the line: values stay text until the settings' own types are known to fit.
    if os.path.basename(sys.argv[0]) == "offramp":  # noqa: PTH119 - no path, a name
        prog = prog.replace("python -m eval.", "offramp ").replace("python -m cascades.", "offramp ")
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    types = get_type_hints(settings)
    flags = {field.name: _flag(field.name) for field in fields(settings)}
    for field in fields(settings):
        _add(parser, field, types[field.name])
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        negated = [f"--no-{flags[name][2:]}" for name in flags if types[name] is bool]
        _refuse(unknown[0], [*flags.values(), *negated, "--help"])
    values = {}
    for field in fields(settings):
        given = getattr(found, field.name, MISSING)
        if given is not MISSING:
            values[field.name] = _value(given, types[field.name], field.metadata, flags[field.name])
        elif _needed(field):
            raise InputError(f"a value ({field.metadata.get('help', 'it has no default')})", "none", flags[field.name])
    return settings(**values)


def guard(work: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code; what is not the program's fault becomes one line on stderr.

    InputError gives 2; a full disk, an unreadable file or too little memory 1; Ctrl-C 130. Errors in the program keep
    their traceback, and ``--help`` leaves through SystemExit.
    """
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()
    except InputError as error:
        return _told(f"error: {error}", BAD_INPUT)
    except KeyboardInterrupt as error:  # who has saved something says so
        return _told(str(error) or "interrupted; files already there are as they were", INTERRUPTED)
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except MemoryError:
        return _told("error: not enough memory", FAILED)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        return _told(f"error: {f'{error.filename}: ' if error.filename else ''}{reason}", FAILED)
    return code or 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong by an InputError rather than by a usage page and an exit."""

    def error(self, message: str) -> NoReturn:
        flag, _, rest = message.removeprefix("argument ").partition(": ")
        if rest.startswith("expected"):
            raise InputError("a value after it", "none", flag)
        raise InputError("flags and their values", message)


def _add(parser: argparse.ArgumentParser, field: Field[Any], kind: Any) -> None:
    choices = ", ".join(map(str, field.metadata.get("choices", ())))
    notes = [
        f"{'any' if _many(kind) else 'one'} of {choices}" if choices else "",
        "required" if _needed(field) else _default(field),
    ]
    form: dict[str, Any] = {"metavar": field.metadata.get("metavar", field.name.upper())}
    if kind is bool:
        form = {"action": argparse.BooleanOptionalAction}
    elif _many(kind):
        form["nargs"] = "+"
    told = f"{field.metadata.get('help', '')} ({'; '.join(filter(None, notes))})".removesuffix(" ()").replace("%", "%%")
    parser.add_argument(_flag(field.name), dest=field.name, default=argparse.SUPPRESS, help=told.strip(), **form)


def _default(field: Field[Any]) -> str:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(default, bool):
        default = "yes" if default else "no"
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    return "" if default is None else f"default: {default}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _needed(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _many(kind: Any) -> bool:
    return get_origin(_given(kind)) is tuple


def _given(kind: Any) -> Any:
    """The type of a value that was given: T for ``T | None``."""
    if get_origin(kind) in (Union, UnionType):
        return next(option for option in get_args(kind) if option is not NoneType)
    return kind


def _value(given: Any, kind: Any, metadata: Mapping[str, Any], flag: str) -> Any:
    kind = _given(kind)
    if isinstance(given, bool):
        return given
    if get_origin(kind) is tuple:
        items = [item.strip() for word in given for item in word.split(",")]
        return tuple(_one(item, get_args(kind)[0], metadata, flag) for item in items)
    return _one(given, kind, metadata, flag)


def _one(text: str, kind: Any, metadata: Mapping[str, Any], flag: str) -> Any:
    choices = metadata.get("choices", ())
    bounds = [f"{word} {metadata[key]}" for key, word in BOUNDS.items() if key in metadata]
    expected = ", ".join(filter(None, [MEANING.get(kind, "a value"), " and ".join(bounds)]))
    if choices:
        expected = f"one of {', '.join(map(str, choices))}{_near(text, choices)}"
    try:
        value = kind(text)
    except ValueError:
        raise InputError(expected, repr(text), flag) from None
    wrong = text == "" or (choices and value not in choices)
    if isinstance(value, int | float):
        # NaN is within no bounds, and infinity within none that can be written here.
        wrong = wrong or not metadata.get("minimum", -MOST) <= value <= metadata.get("maximum", MOST)
    if wrong:
        raise InputError(expected, repr(text), flag)
    return value


def _near(word: str, words: Sequence[object]) -> str:
    close = difflib.get_close_matches(word, [str(each) for each in words], n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _refuse(word: str, flags: Sequence[str]) -> NoReturn:
    flag = word.partition("=")[0]
    if flag.startswith("-"):
        raise InputError(f"a known flag{_near(flag, flags)} among {', '.join(flags)}", "an unknown one", flag)
    raise InputError(f"only flags and their values, {', '.join(flags)}", repr(word))


def _told(line: str, code: int) -> int:
    print(" ".join(line.split()), file=sys.stderr)  # noqa: T201 - the one place where a command complains
    return code
