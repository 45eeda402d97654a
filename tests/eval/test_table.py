import io
import json

import pytest

from offramp.cascades.command.console import WIDTH
from offramp.eval.report.summary import summarise
from offramp.eval.report.table import budget_table, number, show, speed_table


class Stream(io.StringIO):
    encoding = "utf-8"


class Ascii(io.StringIO):
    encoding = "ascii"


class Terminal(Stream):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def summary(world):
    return summarise(*world(policy=0.95, joint=0.6, uniform=0.0, soft_oracle=1.0))


def shown(summary, files=(), stream=None):
    stream = stream or Stream()
    show(summary, files, stream)
    return stream.getvalue()


def renamed(summary, names):
    """The same summary with other names for stages or the unit."""
    text = json.dumps(summary)
    for old, new in names.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    return json.loads(text)


def test_a_pipe_gets_plain_text_within_a_hundred_columns(summary):
    text = shown(summary)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_numbers_of_the_summary_are_there(summary):
    text = shown(summary)
    for record in summary["budgets"]:
        tested = record["tested"]
        assert number(record["budget"]) in text
        cost = tested["cost"]
        assert f"{number(cost['value'])} [{number(cost['low'])}, {number(cost['high'])}]" in text
        assert f"{100 * tested['error']['value']:.2f} [{100 * tested['error']['low']:.2f}" in text
        for stage in "ab":
            exits, spent = tested["exit_share"][stage], tested["spent_share"][stage]
            assert f"{100 * exits:.1f} %, {100 * spent:.1f} %" in text
    for router in ("policy", "joint", "soft_oracle"):
        for record in summary["routers"][router]:
            if record["reached"]:
                assert f"{record['speedup']['value']:.2f}x ({100 * record['extra_error']['value']:+.2f})" in text
                assert f"[{record['speedup']['low']:.2f}, {record['speedup']['high']:.2f}]" in text
            else:
                assert "out of reach" in text
    assert summary["verdict"]["text"] in " ".join(text.split())


def test_columns_stand_for_margins_and_rows_for_routers(summary):
    lines = shown(summary).splitlines()
    head = next(line for line in lines if "points of error" in line)
    assert head.split()[-4:] == ["0", "0.5", "1", "2"]
    starts = [line.strip()[:12] for line in lines]
    routers = ["learned poli", "jointly tune", "random mix  ", "single stage", "soft oracle "]
    assert [start for start in starts if start in routers] == routers


def test_files_are_named_whole_however_long(summary, tmp_path):
    long = tmp_path / ("x" * 150) / "frontier.png"
    assert f"  {long}\n" in shown(summary, [long])


def test_names_are_not_taken_for_markup_and_may_be_long(summary):
    text = shown(renamed(summary, {"a": "[red]:cat:[/red]", "b": "vision/" + "very-long-name-" * 5}))
    assert "[red]:cat:[/red]" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_stream_that_knows_no_other_letters(summary):
    text = shown(renamed(summary, {"ms": "µs"}), stream=Ascii())
    assert text.isascii()
    assert "cost, ?s" in text


def test_a_terminal_gets_colours(summary, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in shown(summary, stream=Terminal())


def test_what_does_not_exist_is_said(summary):
    changed = {**summary, "routers": {name: [dict(r) for r in rows] for name, rows in summary["routers"].items()}}
    changed["routers"]["policy"][0] = {"margin": 0.0, "reached": False}
    changed["routers"]["joint"][3]["speedup"] = {"value": None, "low": None, "high": None}
    changed["budgets"] = [{"share": 0.25, "budget": 3.25, "reached": False}]
    text = shown(changed)
    assert "out of reach" in text
    assert "free (" in text
    assert "None" not in text


def test_the_oracle_has_a_row_only_where_it_saves(summary):
    assert "share of the oracle's saving" in shown(summary)
    without = json.loads(json.dumps(summary))
    for record in without["routers"]["policy"]:
        record["oracle_share"] = {"value": None, "low": None, "high": None}
    assert "share of the oracle's saving" not in shown(without)


def test_tables_stand_alone(summary):
    assert len(budget_table(summary).columns) == 4
    assert len(speed_table(summary).columns) == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567.8, "1,234,568"), (9.3234, "9.323"), (0.00010004, "0.0001000"), (1e-20, "0.000000000000")],
)
def test_number(value, text):
    assert number(value) == text
