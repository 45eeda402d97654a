import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.cascades.graph.costs import Costs, StageCost, read_costs, write_costs
from offramp.features.errors import InputError

EXIT = {"network": "r", "trunk": 2.0, "head": 0.5}


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def costs_file(path: Path, **stages: Any) -> Path:
    return written(path, {"unit": "ms", "stages": stages})


def test_costs_as_they_stand(tmp_path: Path) -> None:
    content = {
        "unit": "ms per image",
        "device": "a laptop",
        "batch": 8,
        "stages": {"z": 3, "r.exit1": EXIT, "a": 0.0, "r.exit2": {"network": "r", "trunk": 4, "head": 0.25}},
    }
    costs = read_costs(written(tmp_path / "costs.json", content))
    assert (costs.unit, costs.device, costs.batch) == ("ms per image", "a laptop", 8)
    assert list(costs.stages) == ["z", "r.exit1", "a", "r.exit2"]
    assert costs.stages["z"] == StageCost("z", 3.0, 0.0)
    assert costs.stages["r.exit1"] == StageCost("r", 2.0, 0.5)
    assert costs.step((), "r.exit2") == 6.25
    assert costs.step(("z", "r.exit1"), "r.exit2") == 4.25
    assert costs.step(("r.exit1",), "z") == 3.0


def test_trunks_are_paid_up_to_the_deepest_exit_there_was() -> None:
    exits = {f"r{i}": StageCost("r", 10.0**i, 0.5) for i in range(4)}
    costs = Costs({"a": StageCost("a", 7.0, 0.0), **exits}, "ms")
    assert costs.step(("r0", "a", "r2"), "r3") == 1000.5
    assert costs.step(("r2", "r0"), "r3") == 1000.5
    assert costs.step(("a", "r0"), "r3") == 1110.5
    assert costs.step(("a",), "r3") == 1111.5
    # back at an exit that was passed, only its head is paid for
    assert costs.step(("r2",), "r1") == 0.5


@pytest.mark.parametrize("amount", ["1e101", "1e-101", "5e-324"])
def test_costs_whose_sums_and_inverses_are_no_numbers_are_refused(tmp_path: Path, amount: str) -> None:
    text = f'{{"unit": "ms", "stages": {{"a": 1, "b": {amount}}}}}'
    with pytest.raises(InputError, match=r"stage 'b': expected a cost of 0 or from 1e-100 to 1e\+100"):
        read_costs(written(tmp_path / "costs.json", text))


def test_a_unit_that_cannot_be_printed_is_shown_as_far_as_it_can(tmp_path: Path) -> None:
    costs = read_costs(written(tmp_path / "costs.json", '{"unit": "m\\ud800s\\u0000", "stages": {"a": 1}}'))
    assert costs.unit == "m?s?"


def test_unit_is_any_text_and_the_rest_may_be_left_out(tmp_path: Path) -> None:
    text = '\ufeff{"unit": "bananas/ü", "measured": {"on": "a Tuesday"}, "stages": {"a": 1e-9}}'
    costs = read_costs(written(tmp_path / "costs.json", text))
    assert costs == Costs({"a": StageCost("a", 1e-9, 0.0)}, "bananas/ü", "", None)


NUMBERS = [-1, -1e-300, True, False, "1", "1,5", None, [1]]
NO_JSON = [10**400, float("nan"), float("inf"), -float("inf")]
"""What the strict reader of JSON does not take for a number, wherever it stands."""


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: repr(number)[:12])
def test_what_is_no_cost(tmp_path: Path, number: Any) -> None:
    path = tmp_path / "costs.json"
    with pytest.raises(InputError, match=r"costs\.json, stage 'bad'.*expected a finite cost of at least 0"):
        read_costs(costs_file(path, good=1, bad=number))
    for key in ("trunk", "head"):
        with pytest.raises(InputError, match=rf"costs\.json, stage 'bad', {key}: expected a finite cost"):
            read_costs(costs_file(path, good=1, bad=EXIT | {key: number}))


@pytest.mark.parametrize("number", NO_JSON, ids=lambda number: repr(number)[:12])
def test_what_is_no_number_at_all(tmp_path: Path, number: Any) -> None:
    with pytest.raises(InputError, match=r"costs\.json: .*(no number|too large)"):
        read_costs(costs_file(tmp_path / "costs.json", good=1, bad=number))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["JSON"]),
        ('{"unit": "ms", "stages": {"a": 1}', ["JSON", "line 1"]),
        ("[1, 2]", ["stages", "found [1, 2]"]),
        ("7", ["stages", "found 7"]),
        ('{"unit": "ms"}', ["stages", '{"unit": "ms"}']),
        ('{"unit": "ms", "stages": {}}', ["at least one stage"]),
        ('{"unit": "ms", "stages": [1]}', ["stages"]),
        ('{"stages": {"a": 1}}', ["unit", "found nothing"]),
        ('{"unit": "  ", "stages": {"a": 1}}', ["unit"]),
        ('{"unit": 5, "stages": {"a": 1}}', ["unit", "found 5"]),
        ('{"unit": "ms", "device": 3, "stages": {"a": 1}}', ["device", "found 3"]),
        ('{"unit": "ms", "batch": 0, "stages": {"a": 1}}', ["batch", "found 0"]),
        ('{"unit": "ms", "batch": 1.0, "stages": {"a": 1}}', ["batch", "found 1.0"]),
        ('{"unit": "ms", "batch": true, "stages": {"a": 1}}', ["batch", "found true"]),
        ('{"unit": "ms", "batch": NaN, "stages": {"a": 1}}', ["NaN, which is no number"]),
        ('{"unit": "ms", "batch": 1' + "0" * 5000 + ', "stages": {"a": 1}}', ["too large"]),
        ('{"unit": "ms", "stages": {"a": 1' + "0" * 5000 + "}}", ["too large"]),
        ('{"unit": "ms", "stages": {"a": 1e999}}', ["too large"]),
        ('{"unit": "ms", "stages": {"a": NaN}}', ["NaN, which is no number"]),
        ('{"unit": "ms", "stages": {"a": -Infinity}}', ["-Infinity, which is no number"]),
        ('{"unit": "ms", "stages": {"a": 0, "b": 0.0}}', ["more than 0", "zero for all"]),
        ('{"unit": "ms", "stages": {"a": {"network": "r", "trunk": 0, "head": 0}}}', ["more than 0"]),
        ('{"unit": "ms", "stages": {"a": 1, "b": 2, "a": 3}}', ["the key 'a' twice"]),
        ('{"unit": "ms", "unit": "s", "stages": {"a": 1}}', ["the key 'unit' twice"]),
        ('{"unit": "ms", "stages": {"a": {"trunk": 1, "trunk": 2}}}', ["the key 'trunk' twice"]),
        ('{"unit": "ms", "stages": {"": 1}}', ["a stage's name", "empty"]),
        ('{"unit": "ms", "stages": {"a": {}}}', ["stage 'a'", "network, trunk and head", "(none)"]),
        ('{"unit": "ms", "stages": {"a": {"network": "r", "trunk": 1}}}', ["stage 'a'", "keys network, trunk"]),
        ('{"unit": "ms", "stages": {"a": {"network": "r", "trunk": 1, "haed": 1, "head": 1}}}', ["haed"]),
        ('{"unit": "ms", "stages": {"a": {"network": 3, "trunk": 1, "head": 1}}}', ["stage 'a', network", "found 3"]),
        (
            '{"unit": "ms", "stages": {"r": 1, "r.exit": {"network": "r", "trunk": 1, "head": 1}}}',
            ["stage 'r'", "also the network of another"],
        ),
        ("[" * 100_000, ["nested too deeply"]),
    ],
)
def test_bad_costs(tmp_path: Path, content: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read_costs(written(tmp_path / "costs.json", content))
    for word in ["costs.json", *words]:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_file_that_is_missing_or_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    with pytest.raises(InputError, match=r"costs\.json: .*No such file"):
        read_costs(path)
    path.write_bytes('{"unit": "µs", "stages": {"a": 1}}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"costs\.json: .*UTF-8 \(byte 0xb5"):
        read_costs(path)


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(str.strip)
AMOUNTS = st.just(0.0) | st.floats(1e-100, 1e100) | st.integers(0, 10**6).map(float)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    stand_alone=st.dictionaries(NAMES, AMOUNTS, max_size=3),
    exits=st.dictionaries(NAMES, st.tuples(st.sampled_from(["net", "work"]), AMOUNTS, AMOUNTS), max_size=4),
    unit=NAMES,
    device=st.text(st.characters(codec="utf-8")),
    batch=st.none() | st.integers(1, 10**6),
)
def test_written_costs_are_read_back(
    tmp_path: Path,
    stand_alone: dict[str, float],
    exits: dict[str, tuple[str, float, float]],
    unit: str,
    device: str,
    batch: int | None,
) -> None:
    stages = {f"m {name}": StageCost(f"m {name}", cost, 0.0) for name, cost in stand_alone.items()}
    stages |= {f"e {name}": StageCost(*cost) for name, cost in exits.items()}
    stages["net"] = StageCost("net", 1.0, 0.0)  # the name of a network, with and without other exits on it
    costs = Costs(stages, unit, device, batch)
    write_costs(costs, tmp_path / "costs.json")
    again = read_costs(tmp_path / "costs.json")
    assert again == replace(costs, unit="".join(c if c.isprintable() else "?" for c in unit))
    assert list(again.stages) == list(stages)
    assert [path.name for path in tmp_path.iterdir()] == ["costs.json"]


def test_a_stand_alone_model_is_written_as_a_number(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    write_costs(Costs({"a": StageCost("a", 1.5, 0.0), "r.exit": StageCost("r", 2.0, 0.5)}, "ms"), path)
    assert json.loads(path.read_text()) == {"unit": "ms", "stages": {"a": 1.5, "r.exit": EXIT}}
