"""Fitted cascades as one object: gaps filled, points named, routed, written and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest

from offramp.cascades.files.policies import policies_to_plain, read_policies
from offramp.cascades.graph.routing import Routes, Routing, coins, mixed
from offramp.cascades.learning.fit import FitSettings
from offramp.cascades.learning.points import GAP, Fitted, fill_gaps, fit_points
from offramp.features.errors import InputError
from offramp.features.outputs import Outputs

FAMILIES = ("constant", "threshold", "logistic", "value")


@pytest.fixture(scope="module")
def fitted(routes_of: Callable[..., Routes], world: Callable[..., Outputs]) -> Fitted:
    return fit_points(world(600), None, routes_of(3), 5, FitSettings(FAMILIES))[0]


def test_points_stand_in_the_order_of_their_names(fitted: Fitted, world: Callable[..., Outputs]) -> None:
    routings = fitted.route(world(300, part="test"))
    assert len(routings) == len(fitted.names) == len(fitted.points(routings))
    assert len(fitted.names) == len(fitted.sweep.prices) + len(fitted.plans) + len(fitted.mixtures)
    assert [name.startswith("thresholds ") for name, _ in fitted.names].count(True) == len(fitted.plans) == 5
    assert {point.router for point in fitted.points(routings)} == {"policy"}


def test_a_mixture_is_routed_as_its_two(fitted: Fitted, world: Callable[..., Outputs]) -> None:
    assert fitted.mixtures
    routings = fitted.route(world(300, part="test"))
    first = len(fitted.sweep.prices) + len(fitted.plans)
    m, path, coin = fitted.mixtures[0], routings[first].path, coins(range(300), fitted.coin)
    np.testing.assert_array_equal(path, mixed(routings[m.one], routings[m.other], m.share, coin).path)


def test_of_a_share_of_nothing_none_and_of_all_everyone_goes_the_other_way(
    fitted: Fitted, world: Callable[..., Outputs]
) -> None:
    some = fitted.route(world(4, part="test"))[0]
    one, other = (replace(some, path=np.full(4, path), wrong=np.full(4, path)) for path in (0, 1))
    coin = np.array([0.0, 0.25, 0.5, 1 - 2.0**-53])
    for share, went in ((0.0, [0, 0, 0, 0]), (0.25, [1, 0, 0, 0]), (0.5, [1, 1, 0, 0]), (1.0, [1, 1, 1, 1])):
        found = mixed(one, other, share, coin)
        assert found.path.tolist() == found.wrong.tolist() == went


def test_points_are_picked_by_held_out_examples_or_the_tune_part(
    routes_of: Callable[..., Routes], world: Callable[..., Outputs]
) -> None:
    fit, tune = world(400), world(200, part="tune", seed=1)
    for part, picking in (
        (fit, fit_points(fit, None, routes_of(2), 4, FitSettings(FAMILIES))[1]),
        (tune, fit_points(fit, tune, routes_of(2), 4, FitSettings(FAMILIES))[1]),
    ):
        assert {routing.part for routing in picking.routings} == {picking.there.part} == {part.part}
        assert {len(routing) for routing in picking.routings} == {len(part)}
        assert picking.fit.part == "fit"


def test_without_the_threshold_family_none_are_tuned(
    routes_of: Callable[..., Routes], world: Callable[..., Outputs]
) -> None:
    assert fit_points(world(200), None, routes_of(2), 3, FitSettings(("constant", "value")))[0].plans == ()


def written(fitted: Fitted, path: Path) -> Path:
    path.write_text(json.dumps(policies_to_plain(fitted), allow_nan=False), "utf-8")
    return path


def test_what_is_written_routes_alike_when_read(fitted: Fitted, world: Callable[..., Outputs], tmp_path: Path) -> None:
    back = read_policies(written(fitted, tmp_path / "policies.json"))
    assert back.names == fitted.names or [n for n, _ in back.names] == [n for n, _ in fitted.names]
    test = world(300, part="test")
    for one, other in zip(fitted.route(test), back.route(test), strict=True):
        np.testing.assert_array_equal(one.path, other.path)
        np.testing.assert_array_equal(one.answer, other.answer)


def broken(text: str, key: str, value: object) -> str:
    content = json.loads(text)
    content[key] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("version", 2, "expected version 1, found version 2, written by a later version"),
        ("format", "other", "offramp cascades"),
        ("mixtures", [{"one": 0, "other": 10_000, "share": 0.5}], "mixtures of two"),
        ("mixtures", [{"one": 0, "other": 1, "share": 1.5}], "mixtures, 0, share: expected a number from 0 to 1"),
        ("version", 0, "which never was"),
        ("version", True, "format 'offramp cascades', version 1"),
        ("mixtures", [{"one": 0}], "mixtures, 0, other: expected a whole number"),
        ("mixtures", [{"one": 0, "other": True, "share": 0.5}], "mixtures, 0, other: expected a whole number"),
        ("mixtures", [{"one": 0, "other": 1, "share": 0.5}] * 20_000, "at most 10000 points"),
        ("thresholds", [{"path": "x", "stages": [5], "cuts": []}], "thresholds for each of 5 prices"),
        ("thresholds", [{"path": "x", "stages": [5], "cuts": []}] * 5, "paths of the routes"),
        ("thresholds", [{"path": "x", "stages": [0, 1], "cuts": []}] * 5, "1 thresholds on its paths"),
        (
            "thresholds",
            [{"path": "x", "stages": [0, 1], "cuts": ["nan"]}] * 5,
            "thresholds, 0, cuts, 0: expected a number or one of -inf, inf",
        ),
        (
            "thresholds",
            [{"path": "x", "stages": [0, 1], "cuts": ["often"]}] * 5,
            "thresholds, 0, cuts, 0: expected a number or one of -inf, inf",
        ),
        ("sweep", {"type": "Spline", "column": [], "knot": [], "mean": [], "scale": []}, "expected Sweep"),
        ("sweep", {"type": "os.system"}, "writes"),
        ("coin", None, "coin: expected a whole number from 0"),
        ("coin", -1, "coin: expected a whole number from 0"),
        ("examples", 7, "examples: expected a line of text of at most 64"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(
    fitted: Fitted, tmp_path: Path, key: str, value: object, expected: str
) -> None:
    path = written(fitted, tmp_path / "policies.json")
    path.write_text(broken(path.read_text("utf-8"), key, value), "utf-8")
    with pytest.raises(InputError) as raised:
        read_policies(path)
    assert expected in str(raised.value)
    assert "policies.json" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{", b"[" * 100_000])
def test_what_is_no_file_of_policies_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policies.json"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_policies(path)
    with pytest.raises(InputError, match="No such file"):
        read_policies(tmp_path / "none.json")


# --- mixtures


def routings(costs: Sequence[float], errors: Sequence[float], n: int = 1000) -> list[Routing]:
    """One routing a cost, which all examples pay; the first so many of them are wrong."""
    routes = Routes(("a",), tuple((0,) for _ in costs), np.array(costs, dtype=float)[:, None], "ms")
    made = []
    for i, error in enumerate(errors):
        wrong = np.arange(n) < round(error * n)
        made.append(Routing(routes, np.full(n, i), np.full(n, i), wrong, "fit"))
    return made


def test_gaps_of_a_frontier_are_filled_by_hand() -> None:
    # the second costs as much as the first and errs more; the third lies above the line; the gap is all there is
    found = fill_gaps(routings([1, 1, 2, 3], [0.5, 0.6, 0.49, 0.1]))
    assert {(m.one, m.other) for m in found} == {(0, 3)}
    steps = round(1 / GAP)
    assert len(found) in (steps - 1, steps)
    shares = [m.share for m in found]
    np.testing.assert_allclose(np.diff([0.0, *shares, 1.0]), 1 / (len(found) + 1))


def test_only_gaps_wider_than_a_step_are_filled() -> None:
    cost = [10.0, 10.1, 10.25, 20.0]
    found = fill_gaps(routings(cost, [0.9, 0.6, 0.4, 0.3]))
    assert {(m.one, m.other) for m in found} == {(2, 3)}
    steps = [(cost[m.other] - cost[m.one]) * m.share for m in found]
    assert max(np.diff([0.0, *steps, 9.75])) <= GAP * 10 + 1e-9
    assert fill_gaps(routings([1.0, 1.0], [0.5, 0.4])) == []
    assert fill_gaps(routings([1.0], [0.5])) == []


def test_a_mixture_is_a_coin_for_each_example() -> None:
    one, other = routings([1, 3], [1.0, 0.0], 10_000)
    coin = coins(range(10_000), 1)
    half = mixed(one, other, 0.3, coin)
    taken = half.path == 1
    assert taken.mean() == pytest.approx(0.3, abs=0.02)
    np.testing.assert_array_equal(half.answer == 1, taken)
    np.testing.assert_array_equal(half.wrong, ~taken)
    assert half.part == "fit"
    assert (mixed(one, other, 0.3, coins(range(10_000), 2)).path != half.path).any()
    # whoever takes the other way at a small share takes it at a larger one
    assert (mixed(one, other, 0.5, coin).path >= half.path).all()
    np.testing.assert_array_equal(mixed(one, other, 0.0, coin).path, one.path)
    np.testing.assert_array_equal(mixed(one, other, 1.0, coin).path, other.path)


@pytest.mark.parametrize("seed", [0, 1, 5, 10**30])
def test_coins_are_an_examples_own_and_fall_evenly(seed: int) -> None:
    """Whatever stands beside it: served one at a time, in batches or sorted, it goes the same way."""
    ids = np.array([f"image_{i:05d}.png" for i in range(20_000)])
    coin = coins(ids, seed)
    order = np.random.default_rng(0).permutation(len(ids))
    np.testing.assert_array_equal(coins(ids[order], seed), coin[order])
    assert [coins([one], seed)[0] for one in ids[:50]] == coin[:50].tolist()
    assert coins(np.arange(9), seed).tolist() == coins(map(str, range(9)), seed).tolist()
    assert 0 <= coin.min() < coin.max() < 1
    assert kstest(coin, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(coin[:-1], coin[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(coin, coins(ids, seed + 1))[0, 1]) < 0.03


def test_a_coin_is_known_by_hand() -> None:
    import hashlib

    first = int.from_bytes(hashlib.blake2b(b"5\ncat.png", digest_size=8).digest(), "little")
    assert coins(["cat.png"], 5)[0] == (first >> 11) / 2**53
    assert coins(["\ud800"], 5).shape == (1,)
    assert coins([], 5).shape == (0,)
