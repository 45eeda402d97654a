import errno
import io
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from offramp.cascades.command.settings import guard, parse
from offramp.features.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Flags:
    """A command's settings."""

    topology: str = field(metadata={"help": "which stages"})
    loss: str = field(default="top1", metadata={"help": "what counts", "choices": ("top1", "top5", "excess")})
    policies: tuple[str, ...] = field(default=("a", "b"), metadata={"choices": ("a", "b", "c"), "help": "families"})
    sizes: tuple[int, ...] = field(default_factory=lambda: (3, 4), metadata={"minimum": 1})
    points: int = field(default=50, metadata={"help": "prices, 100% of them", "minimum": 1, "maximum": 99})
    share: float = field(default=0.5, metadata={"minimum": 0, "maximum": 1})
    some_price: float = field(default=1.0, metadata={"help": "any"})
    out: Path = field(default=Path("frontier"), metadata={"help": "folder", "metavar": "DIR"})
    rows: int | None = field(default=None, metadata={"help": "at most"})
    calibrate: bool = field(default=True, metadata={"help": "temperature"})


def parsed(*argv, flags=Flags):
    return parse(flags, argv, "python -m some.command", "Does something.")


def refused(*argv):
    with pytest.raises(InputError) as found:
        parsed(*argv)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_defaults_are_the_dataclass():
    assert parsed("--topology", "a_g_r") == Flags("a_g_r")


def test_every_kind_of_value():
    line = "--topology a --loss=top5 --policies c,a --sizes 1,2 --points 7 --share .25 --some-price=-1e3 --out x/y"
    found = parsed(*line.split(), "--rows", "9", "--no-calibrate")
    expected = Flags("a", "top5", ("c", "a"), (1, 2), 7, 0.25, -1000.0, Path("x/y"), 9, False)
    assert found == expected
    assert [type(getattr(found, name)) for name in ("points", "share", "out", "sizes")] == [
        int,
        float,
        type(Path()),
        tuple,
    ]


def test_bounds_belong_to_what_is_allowed():
    found = parsed("--topology", "a", "--points", "99", "--share", "0")
    assert (found.points, found.share) == (99, 0.0)


def test_topologies_with_arrows_are_values():
    assert parsed("--topology", "a>g,r;g>r").topology == "a>g,r;g>r"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--points 0", "--points: expected a whole number, at least 1 and at most 99, found '0'"),
        ("--points 100", "--points: expected a whole number, at least 1 and at most 99, found '100'"),
        ("--points -5", "--points: expected a whole number, at least 1 and at most 99, found '-5'"),
        ("--points 1.5", "--points: expected a whole number, at least 1 and at most 99, found '1.5'"),
        ("--share nan", "--share: expected a finite number, at least 0 and at most 1, found 'nan'"),
        ("--share 1.1", "--share: expected a finite number, at least 0 and at most 1, found '1.1'"),
        ("--some-price inf", "--some-price: expected a finite number, found 'inf'"),
        ("--some-price ten", "--some-price: expected a finite number, found 'ten'"),
        ("--sizes 1,0", "--sizes: expected a whole number, at least 1, found '0'"),
        ("--sizes 1,,2", "--sizes: expected a whole number, at least 1, found ''"),
        ("--rows x", "--rows: expected a whole number, found 'x'"),
        ("--loss top2", "--loss: expected one of top1, top5, excess (did you mean top5?), found 'top2'"),
        ("--policies a,q", "--policies: expected one of a, b, c, found 'q'"),
        ("--out=", "--out: expected a value, found ''"),
        ("--loss", "--loss: expected a value after it, found none"),
        ("--loss --rows 3", "--loss: expected a value after it, found none"),
    ],
)
def test_a_bad_value_is_one_line(argv, message):
    assert refused("--topology", "a", *argv.split()) == message


def test_a_flag_that_must_be_given():
    assert refused() == "--topology: expected a value (which stages), found none"


@pytest.mark.parametrize("argv", [["--poitns", "3"], ["--poitns=3"]])
def test_an_unknown_flag_is_named_with_the_one_that_was_meant_and_all_there_are(argv):
    found = refused("--topology", "a", *argv)
    assert found.startswith("--poitns: expected a known flag (did you mean --points?) among --topology, ")
    for flag in ("--loss", "--some-price", "--calibrate", "--no-calibrate", "--help"):
        assert flag in found


def test_flags_are_not_guessed_from_their_beginning():
    assert refused("--topo", "a").startswith("--topo: expected a known flag (did you mean --topology?)")


def test_a_word_without_a_flag():
    assert refused("--topology", "a", "stray").endswith("found 'stray'")


def test_a_switch_takes_no_value():
    assert "--calibrate" in refused("--topology", "a", "--calibrate=yes")


def test_help_shows_every_flag_default_and_choice(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as left:
        parsed("--help")
    assert left.value.code == 0
    out = capsys.readouterr().out
    for expected in (
        *("python -m some.command", "Does something.", "--topology TOPOLOGY", "which stages (required)"),
        *("what counts (one of top1, top5, excess; default: top1)", "families (any of a, b, c; default: a,b)"),
        *(
            "prices, 100% of them (default: 50)",
            "(default: 3,4)",
            "(default: 0.5)",
            "--out DIR",
            "folder (default: frontier)",
        ),
        *("--rows ROWS", "at most\n", "--calibrate, --no-calibrate", "temperature (default: yes)"),
    ):
        assert expected in out


def test_help_needs_no_heavy_import():
    program = (
        "import sys; from offramp.cascades.command.settings import parse; from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Flags:\n    points: int = 3\n"
        "try: parse(Flags, ['--help'], 'p', 'd')\n"
        "except SystemExit: print(sorted({'numpy', 'pandas', 'matplotlib', 'rich', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.endswith("[]\n")


def failing(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("one", "two", "--x"), 2, "error: --x: expected one, found two\n"),
        (KeyboardInterrupt(), 130, "interrupted; files already there are as they were\n"),
        (MemoryError(), 1, "error: not enough memory\n"),
        (OSError(errno.ENOSPC, "No space left", "a/b.csv"), 1, "error: a/b.csv: the disk is full\n"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 1, "error: a: Permission denied\n"),
        (OSError("odd"), 1, "error: odd\n"),
    ],
)
def test_failures_are_one_line_and_a_code(capsys, error, code, line):
    assert guard(failing(error)) == code
    found = capsys.readouterr()
    assert found.err == line
    assert found.out == ""


def test_success_has_the_code_that_the_command_returns():
    assert guard(lambda: None) == 0
    assert guard(lambda: 3) == 3


def test_errors_in_the_program_and_help_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        guard(failing(ZeroDivisionError()))
    with pytest.raises(SystemExit):
        guard(failing(SystemExit(0)))


PRINTER = (
    "import sys; from offramp.cascades.command.settings import guard; sys.exit(guard(lambda: print('x' * 100_000)))"
)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full: Linux only")
def test_a_full_disk_behind_standard_output():
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTER], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"error: the disk is full\n")


def test_a_reader_that_leaves_gets_no_complaint():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", PRINTER], cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_process_own_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command", "--topology", "a"])
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert parse(Flags, None, "p", "d") == Flags("a")
