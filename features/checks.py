"""What was read from a file turned into the certainty that it has the types, the shapes and the numbers it should."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from offramp.features.errors import InputError
from offramp.features.numeric.spline import Spline

LONGEST_NAME = 1000
"""Characters of a name at most."""

FARTHEST_NUMBER = 1e18
"""No mean, cut or knot lies beyond (measured numbers stop at a billion)."""

LARGEST_WEIGHT = 1e12
LEAST_SCALE = 1e-12
"""Together with the above: a standardised column times a weight stays far from what single precision overflows at."""

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""No line holds these, or no file in UTF-8."""


def is_text(value: Any, longest: int = LONGEST_NAME) -> bool:
    """Whether it is text of one line that can be written and printed.

    >>> is_text("alexnet"), is_text("two\\nlines"), is_text(1)
    (True, False, False)
    """
    return isinstance(value, str) and len(value) <= longest and CONTROL.search(value) is None


class Place:
    """Where in a file something stands, and how it is refused."""

    def __init__(self, where: str, at: str = "") -> None:
        self.where, self.at = where, at

    def __truediv__(self, name: object) -> Place:
        return Place(self.where, f"{self.at}, {name}" if self.at else str(name))

    def hold(self, true: Any, expected: str, found: object = "another") -> None:
        """Raises InputError unless ``true``."""
        if not true:
            raise InputError(expected, str(found)[:80], ", ".join(filter(None, [self.where, self.at])))

    def kind(self, value: Any, *kinds: type) -> None:
        """One of these very types: a bool is no number here."""
        names = " or ".join(kind.__name__ for kind in kinds)
        self.hold(type(value) in kinds, names, f"{type(value).__name__}")

    def whole(self, value: Any, least: int, most: int) -> None:
        """A whole number within these."""
        self.hold(type(value) is int and least <= value <= most, f"a whole number from {least} to {most}", value)

    def texts(self, value: Any) -> None:
        """A tuple of lines of text."""
        self.kind(value, tuple)
        for text in value:
            self.text(text)

    def text(self, value: Any) -> None:
        """A short line of text."""
        self.hold(is_text(value), f"a line of text of at most {LONGEST_NAME} characters", ascii(value))

    def floats(self, value: Any, shape: tuple[int, ...], most: float = FARTHEST_NUMBER, least: float = -np.inf) -> None:
        """A float64 array of this shape, every number finite and at most ``most`` in size, from ``least`` on."""
        self._array(value, shape, np.float64)
        fine = np.abs(value) <= most  # NaN is not
        self.hold(fine.all() and (value >= least).all(), f"numbers from {max(-most, least):g} to {most:g}", "others")

    def ints(self, value: Any, shape: tuple[int, ...], least: int, most: int) -> None:
        """An int64 array of this shape with numbers within these."""
        self._array(value, shape, np.int64)
        fine = not value.size or (int(value.min()) >= least and int(value.max()) <= most)
        self.hold(fine, f"whole numbers from {least} to {most}", "others")

    def _array(self, value: Any, shape: tuple[int, ...], kind: type) -> None:
        self.hold(isinstance(value, np.ndarray), "an array", type(value).__name__)
        found = f"{value.dtype} of shape {value.shape}"
        self.hold(value.dtype == kind and value.shape == shape, f"{np.dtype(kind)} of shape {shape}", found)

    def keys(self, value: Any, keys: Iterable[Any], what: str) -> None:
        """A map with just these keys."""
        self.hold(isinstance(value, Mapping), f"a map of {what}", type(value).__name__)
        wanted = list(keys)
        fine = len(value) == len(wanted) and all(type(key) is type(w) for key, w in zip(value, wanted, strict=True))
        self.hold(fine and value.keys() == set(wanted), f"{what}: {len(wanted)}", f"{len(value)}, or other ones")


def check_columns(value: Any, columns: int, place: Place, count: int | None = None) -> int:
    """How many columns are looked at, each below ``columns``."""
    place.hold(isinstance(value, np.ndarray) and value.ndim == 1, "numbers of columns")
    place.ints(value, (len(value) if count is None else count,), 0, columns - 1)
    return len(value)


def check_spline(spline: Any, columns: int, place: Place) -> int:
    """How many functions it has besides the constant."""
    place.kind(spline, Spline)
    place.hold(isinstance(spline.column, np.ndarray) and spline.column.ndim == 1, "columns (m,)")
    m = len(spline.column)
    place.floats(spline.column, (m,), columns - 1, 0.0)
    place.hold((spline.column == np.floor(spline.column)).all(), "numbers of columns", "fractions")
    place.hold(isinstance(spline.knot, np.ndarray) and spline.knot.dtype == np.float64, "knots")
    place.hold(spline.knot.shape == (m,), f"{m} knots", spline.knot.shape)
    place.floats(np.where(spline.knot == -np.inf, 0, spline.knot), (m,))
    place.floats(spline.mean, (m,))
    place.floats(spline.scale, (m,), least=LEAST_SCALE)
    return m
