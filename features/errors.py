"""The one error that a user's input can raise: what was expected, what was found, and where."""

from __future__ import annotations


class InputError(ValueError):
    """A user's input is not usable; the message is one line that can be printed as it is.

    Parameters are prose: ``expected`` ("logits of shape (10000, c)"), ``found`` ("shape (9999, 10)"),
    ``where`` ("fit.outputs.npz, stage 'alexnet'"; empty when there is no place to name).

    >>> str(InputError("a positive number of points", "0", "--points"))
    '--points: expected a positive number of points, found 0'
    """

    def __init__(self, expected: str, found: str, where: str = "") -> None:
        self.expected, self.found, self.where = expected, found, where
        place = f"{where}: " if where else ""
        line = " ".join(f"{place}expected {expected}, found {found}".split())
        # Names and bytes of a user may hold what no terminal should be sent, or can't be encoded.
        super().__init__("".join(one if one.isprintable() else ascii(one)[1:-1] for one in line))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """Worker processes hand it to their parent."""
        return InputError, (self.expected, self.found, self.where)
