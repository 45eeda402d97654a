"""Results turned into files that are there whole or not at all, in a folder known to be writable before the work."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import file_digest, sha256
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from offramp.features.errors import InputError
from offramp.features.store.atomic import locked, replacing_all, sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from offramp.cascades.graph.routing import OperatingPoint
    from offramp.eval.report.intervals import Bootstrap

FLOATS = "%.10g"  # the last bits of a float depend on the machine
PIXELS_PER_INCH = 150

TIED = "files"
"""The key under which a set's file of JSON has the digests of the others."""

SETTLING = 2.0
"""Seconds that a run may take to rename its files, after which a mixed set is one."""


@dataclass(frozen=True)
class Folder:
    """A folder that results are written into; make one with ``writable``."""

    path: Path

    def write_all(self, contents: Mapping[str, bytes], tie: str = "") -> list[Path]:
        """Writes every file to a temporary name first and renames them together, so that a run that is killed, or
        finds the disk full, leaves the old set whole, or one that ``refuse_mixed`` tells.

        ``tie`` is the file of JSON that says under ``files`` which others belong to it, by their digests.
        """
        if tie:
            digests = {name: sha256(content).hexdigest() for name, content in contents.items() if name != tie}
            contents = {**contents, tie: json_bytes({**json.loads(contents[tie]), TIED: digests})}
        paths = [self.path / name for name in contents]
        with ExitStack() as stack:
            if len(paths) > 1:  # two runs one after another, or their files could be mixed
                stack.enter_context(locked(self.path / (tie or "files")))
            temporaries = stack.enter_context(replacing_all(paths))
            for temporary, content in zip(temporaries, contents.values(), strict=True):
                temporary.write_bytes(content)
        return paths


def refuse_mixed(folder: Path, names: Sequence[str], tie: str = "summary.json") -> tuple[str, ...]:
    """Raises InputError, saying which file is old, where ``names`` in ``folder`` are not of the run that wrote ``tie``.

    Returns their digests, so that who read the files in between can ask whether they are the same still. A folder
    without ``tie``, or of a version that wrote no digests, is taken as it is.
    """
    until = time.monotonic() + SETTLING
    while True:
        digests = {name: _digest(folder / name) for name in names}
        other = [name for name, digest in _tied(folder / tie).items() if digest != digests.get(name, digest)]
        if not other:
            return tuple(digests.values())
        if time.monotonic() > until:
            break
        time.sleep(0.1)  # a run may be writing them just now

    def written(name: str) -> int:
        return (folder / name).stat().st_mtime_ns if (folder / name).exists() else 0

    old = other if written(other[0]) < written(tie) else [name for name in (*names, tie) if name not in other]
    found = f"a mixed set: {', '.join(old)} of an older run than {', '.join({*names, tie} - {*old})}"
    raise InputError("files that one run wrote (write them again)", found, str(folder))


def _tied(path: Path) -> Mapping[str, str]:
    from offramp.features.store.strictjson import read_json

    try:
        found = read_json(path, "a summary") if path.is_file() else {}
    except InputError:
        return {}
    tied = found.get(TIED) if isinstance(found, dict) else None
    return tied if isinstance(tied, dict) else {}


def _digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


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


def writable(path: Path, where: str, names: Sequence[str] = ()) -> Folder:
    """The folder ``path``, made if need be, once a file could really be written into it.

    ``where`` is the flag that named it; ``names`` the files that will be written. Raises InputError if it is a file, if
    nothing can be written into it, or if one of the names is taken by a folder.
    """
    expected = "a folder to write into"
    try:
        path.mkdir(parents=True, exist_ok=True)
        sweep(path, ["try", *names])
        probe = path / f".try.{token_hex(8)}.tmp"
        try:
            probe.write_bytes(b"x")
        finally:
            probe.unlink(missing_ok=True)
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
