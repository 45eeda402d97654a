"""Bounds on what is read of a user's files and flags, each with its reason; docs/formats.md repeats them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from offramp.features.errors import InputError

JSON_BYTES = 128 * 2**20
"""Of a JSON file. Fifty points of three networks take 0.3 MB, of ImageNet's ranked answers 2 MB; eight stages with
every jump allowed some 50 MB."""
NOTE_BYTES = 16 * 2**20
"""Of a costs.json, an extracted.json, a frontier.csv or another small table: the largest that were seen take 1 MB."""
JSON_CONTAINERS, JSON_VALUES = 2_000_000, 8_000_000
"""Lists and objects, and values, of a JSON file: three bytes can take a hundred of memory. Files of policies have a
thousand containers and 14,000 to 350,000 values; a file that is refused took less than 1 GB."""
JSON_DEPTH = 100
"""Lists within lists of a JSON file: what this program writes has 12, and Python's reader recurses."""
NUMBER_CHARACTERS = 400
"""Of a number in JSON: no double needs more than 25, and reading digits takes time."""
SHOWN = 80
"""Characters of what was found that a message repeats."""
HEADER_BYTES = 2**16
"""Of an array's header in an .npy: numpy writes 128, and reads it as a Python expression."""
CSV_BYTES = 4 * 2**30
"""Of a CSV file: thirty million rows take 3 GB, and more stand better in parquet."""
JOURNAL_BYTES = 2**30
"""Of a study's journal: a trial takes some 2 kB."""
ROWS, ROWS_PER_BYTE = 1_000_000, 1000
"""Values of a parquet column that are always taken, and beyond it per byte of the file: run lengths claim any."""
CELL_BYTES = 64
"""Of memory for a cell of a table while it is read."""
BATCH_BYTES = 2**28
"""Of text in the rows of a parquet log that are unpacked at once."""
MEMBERS = 100_000
"""Of a zip archive: a data folder of a hundred stages has a thousand."""
EXPANSION = 1100
"""Bytes that one byte of deflate can become (1,032), rounded up; an archive whose arrays claim more is damaged."""
LINE_BYTES = 2**20
"""Of a line of a routing log, or of the header of a CSV file: a line has some hundred."""
CLASSES, CLASSES_PER_EXAMPLE = 100_000, 100
"""Largest class number that is always taken, and beyond it how many times the examples: later tables hold a number
for each class, and a class that no example has is a mistake (an id, a hash)."""
LONGEST_WAIT = 86_400
"""Seconds of any wait that a flag states: a day. (Python itself refuses to wait for more than some 292 years.)"""
MEMORY_SHARE = 0.5
"""Of the machine's memory, that the tables of one file may take when unpacked."""


def memory() -> int:
    """Bytes of memory that this process may take: the machine's, or its container's if that is less."""
    least = 2**63
    with suppress(OSError, ValueError, AttributeError):
        least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            least = min(least, int(Path("/sys/fs/cgroup", name).read_text()))
    return least


def refuse_larger_than_memory(size: float, what: str, where: str) -> None:
    """Raises InputError where ``size`` bytes of ``what`` ("arrays") are more than ``MEMORY_SHARE`` of memory."""
    if size > (most := MEMORY_SHARE * memory()):
        raise InputError(f"{what} of at most {most / 1e9:.1f} GB (half of the memory)", f"{size / 1e9:.1f} GB", where)
