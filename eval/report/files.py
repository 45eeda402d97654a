"""Results turned into files that are there whole or not at all, in a folder known to be writable before the work."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.features.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from offramp.cascades.graph.routing import OperatingPoint
    from offramp.eval.report.intervals import Bootstrap

FLOATS = "%.10g"  # the last bits of a float depend on the machine
PIXELS_PER_INCH = 150


@dataclass(frozen=True)
class Folder:
    """A folder that results are written into; make one with ``writable``."""

    path: Path

    def write_csv(self, name: str, frame: pd.DataFrame) -> Path:
        """Writes a table; see ``csv_bytes``."""
        return self.write_bytes(name, csv_bytes(frame))

    def write_json(self, name: str, value: Any) -> Path:
        """Writes JSON; see ``json_bytes``."""
        return self.write_bytes(name, json_bytes(value))

    def write_png(self, name: str, figure: Figure) -> Path:
        """Writes a picture; see ``png_bytes``."""
        return self.write_bytes(name, png_bytes(figure))

    def write_all(self, contents: Mapping[str, bytes]) -> list[Path]:
        """Writes every file to a temporary name first and renames them together, so that a run that is killed, or
        finds the disk full, leaves the old set whole."""
        with ExitStack() as stack:
            written = []
            for name, content in contents.items():
                temporary = stack.enter_context(_temporary(self.path, name))
                _write_surely(temporary, content)
                written.append((temporary, self.path / name))
            for temporary, target in written:
                temporary.replace(target)
        return [target for _, target in written]

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Writes to a temporary name beside the target, makes sure of the disk, and renames; returns the target."""
        target = self.path / name
        with _temporary(self.path, name) as temporary:
            _write_surely(temporary, content)
            temporary.replace(target)
        return target


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A table without its index; the same table gives the same bytes."""
    return frame.to_csv(index=False, float_format=FLOATS, lineterminator="\n").encode()


def json_bytes(value: Any) -> bytes:
    """JSON as the standard has it: raises ValueError on NaN and infinity."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def png_bytes(figure: Figure) -> bytes:
    """A picture, without a date or a version in it; letters that the font lacks are drawn as boxes, silently."""
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _write_surely(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def writable(path: Path, where: str, names: Sequence[str] = ()) -> Folder:
    """The folder ``path``, made if need be, once a file could really be written into it.

    ``where`` is the flag that named it; ``names`` the files that will be written. Raises InputError if it is a file, if
    nothing can be written into it, or if one of the names is taken by a folder.
    """
    expected = "a folder to write into"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with _temporary(path, "try") as temporary:
            temporary.write_bytes(b"x")
    except (FileExistsError, NotADirectoryError):
        raise InputError(expected, f"a file on the way to {str(path)!r}", where) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(expected, f"{str(path)!r} ({reason})", where) from None
    for name in names:
        if (path / name).is_dir():
            raise InputError("a file or nothing", f"a folder called {name!r}", f"{where} {path}")
    return Folder(path)


def frontier_frame(
    chosen: Sequence[OperatingPoint], tested: Sequence[OperatingPoint], how: Bootstrap | None = None
) -> pd.DataFrame:
    """One row an operating point and part: router, family, price, mean cost and error with intervals, shares.

    ``share_<stage>`` is the share of examples that stop there, ``spent_<stage>`` the share of the cost spent there.
    """
    import pandas as pd

    from offramp.eval.report.intervals import Bootstrap

    points = [*chosen, *tested]
    stages = list(dict.fromkeys(stage for point in points for stage in point.routing.routes.stages))
    return pd.DataFrame([_row(point, stages, how or Bootstrap()) for point in points])


def _row(point: OperatingPoint, stages: Sequence[str], how: Bootstrap) -> dict[str, Any]:
    from offramp.eval.report.intervals import interval

    routing, found = point.routing, interval(point.routing, how)
    here = routing.routes.stages
    share = dict(zip(here, routing.exit_share.tolist(), strict=True))
    spent = dict(zip(here, routing.spent_share.tolist(), strict=True))
    return {
        "router": point.router,
        "family": point.family,
        "price": point.price,
        "part": routing.part,
        **{"cost": found.cost.value, "cost_low": found.cost.low, "cost_high": found.cost.high},
        **{"error": found.error.value, "error_low": found.error.low, "error_high": found.error.high},
        **{f"share_{stage}": share.get(stage, 0.0) for stage in stages},
        **{f"spent_{stage}": spent.get(stage, 0.0) for stage in stages},
    }


@contextmanager
def _temporary(folder: Path, name: str) -> Iterator[Path]:
    """A name beside ``name`` that no other process uses; gone afterwards."""
    path = folder / f".{name}.{os.getpid()}.part"
    path.unlink(missing_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
