import json
from dataclasses import replace

import numpy as np
import pytest

from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import OperatingPoint, Routing
from offramp.eval.report.intervals import Bootstrap, Estimate
from offramp.eval.report.metrics import METRICS, area_along
from offramp.eval.report.summary import plain, summarise

FEW = Bootstrap(draws=200)


def by_margin(summary, router, margin):
    return next(record for record in summary["routers"][router] if record["margin"] == margin)


@pytest.fixture(scope="module")
def good(world):
    return world(policy=0.95, joint=0.6, soft_oracle=1.0)


@pytest.fixture(scope="module")
def summary(good):
    return summarise(*good)


def by_hand(routes, part, policy, n=10):
    """Points that are wrong in so many of n examples: (path, wrong) of policy; stage a is wrong in 5, b in 2."""

    def point(router, path, wrong, family=""):
        routing = Routing(routes, np.full(n, path), np.zeros(n, int), np.arange(n) < wrong, part)
        return OperatingPoint(router, family, float("nan"), routing)

    points = [point("policy", path, wrong) for path, wrong in policy]
    return [*points, point("single", 1, 2, "b"), point("single", 0, 5, "a")]


def test_points_are_picked_on_one_part_and_reported_on_the_other(routes):
    # On "fit" only the dear point is as good as b; on "test" the cheap one is too, which must not be seen.
    fit = by_hand(routes, "fit", [(0, 3), (2, 2)])
    test = by_hand(routes, "test", [(0, 1), (2, 4)])
    summary = summarise(fit, test, margins=(0.0, 0.1), how=FEW)
    strict, loose = summary["routers"]["policy"]
    assert strict["chosen"] == {"cost": 11, "error": 0.2}
    assert (strict["tested"]["cost"]["value"], strict["tested"]["error"]["value"]) == (11, 0.4)
    assert strict["speedup"]["value"] == pytest.approx(10 / 11)
    assert strict["extra_error"]["value"] == pytest.approx(0.2)
    assert loose["chosen"] == {"cost": 1, "error": 0.3}
    assert loose["tested"]["error"]["value"] == 0.1
    assert summary["hindsight"]["routers"]["policy"]["speedup"] == [10, 10]
    assert summary["hindsight"]["picked_on_test"] is True


def test_the_best_single_stage_is_that_of_the_part_to_choose_on(routes):
    fit, test = by_hand(routes, "fit", [(0, 3)]), by_hand(routes, "test", [(0, 3)])
    test[1] = replace(test[1], routing=replace(test[1].routing, wrong=np.arange(10) < 7))
    summary = summarise(fit, test, how=FEW)
    assert summary["best_single"]["stage"] == "b"
    assert summary["best_single"]["chosen"]["error"] == 0.2
    assert summary["best_single"]["tested"]["error"]["value"] == 0.7
    # Of two stages that are level, the cheaper one.
    fit[2] = replace(fit[2], routing=replace(fit[2].routing, wrong=fit[1].routing.wrong))
    assert summarise(fit, test, how=FEW)["best_single"]["stage"] == "a"


@pytest.mark.parametrize("seed", range(5))
def test_draws_decide_on_intervals_alone(routes, seed):
    # With ten examples a draw often turns things round; what was measured must not.
    fit, test = (by_hand(routes, part, [(0, 3), (2, 2)]) for part in ("fit", "test"))
    fit[3] = replace(fit[3], routing=replace(fit[3].routing, wrong=np.arange(10) < 3))
    found = summarise(fit, test, how=Bootstrap(draws=50, seed=seed))
    assert found["best_single"]["stage"] == "b"
    assert found["best_single"]["tested"]["error"]["value"] == 0.2
    pick = by_margin(found, "policy", 0.0)
    assert pick["chosen"] == {"cost": 11, "error": 0.2}
    assert (pick["tested"]["error"]["value"], pick["extra_error"]["value"]) == (0.2, 0)
    # A corner at (1, 0.3), one at (11, 0.2): at 10, the end, 0.21.
    assert found["area"]["routers"]["policy"]["value"] == pytest.approx((0.3 + 0.21) / 2)


def test_area_goes_on_to_a_dear_stage_that_is_worse(routes):
    fit, test = (by_hand(routes, part, [(0, 5)]) for part in ("fit", "test"))
    for points in (fit, test):
        points[2] = replace(points[2], routing=replace(points[2].routing, wrong=np.arange(10) < 1))
    found = summarise(fit, test, how=FEW)
    assert found["best_single"]["stage"] == "a"
    assert (found["area"]["from"], found["area"]["to"]) == (1, 10)
    assert found["area"]["routers"]["single"]["value"] == pytest.approx(0.1)


def test_out_of_reach_is_said(routes):
    fit, test = by_hand(routes, "fit", [(0, 5)]), by_hand(routes, "test", [(0, 1)])
    assert summarise(fit, test, margins=(0.0,), how=FEW)["routers"]["policy"] == [{"margin": 0.0, "reached": False}]


def test_budgets_hold_on_the_part_to_choose_on(good, summary):
    assert [record["budget"] for record in summary["budgets"]] == pytest.approx([3.25, 5.5, 7.75])
    policy = [p for p in good[0] if p.router == "policy"]
    for record in summary["budgets"]:
        affordable = [p.routing.error for p in policy if p.routing.mean_cost <= record["budget"]]
        assert record["chosen"]["error"] == min(affordable)
        assert record["chosen"]["cost"] <= record["budget"]
        for shares in ("exit_share", "spent_share"):
            assert sum(record["tested"][shares].values()) == pytest.approx(1)


def test_a_budget_is_held_to_the_last_example(routes):
    # Of ten examples two and three are sent on, for 3 and 4 a head; a quarter of the way is 3.25.
    def points(part):
        made = by_hand(routes, part, [(0, 4), (0, 3)])
        for i in (0, 1):
            made[i] = replace(made[i], routing=replace(made[i].routing, path=np.where(np.arange(10) < i + 2, 2, 0)))
        return made

    found = summarise(points("fit"), points("test"), how=FEW)["budgets"]
    assert [record["chosen"]["cost"] for record in found] == pytest.approx([3, 4, 4])


def test_picks_are_the_cheapest_within_each_margin(good, summary):
    best = min(p.routing.error for p in good[0] if p.router == "single")
    for router in ("policy", "joint", "soft_oracle", "single"):
        points = [p.routing for p in good[0] if p.router == router]
        for margin in (0.0, 0.005, 0.01, 0.02):
            within = [r.mean_cost for r in points if r.error <= best + margin + 1e-12]
            record = by_margin(summary, router, margin)
            assert record["reached"] == bool(within)
            if within:
                assert record["chosen"]["cost"] == pytest.approx(min(within))


def test_intervals_hold_their_values_and_know_of_the_picking(summary):
    record = by_margin(summary, "policy", 0.005)
    for name in ("speedup", "extra_error", "oracle_share"):
        assert record[name]["low"] <= record[name]["value"] <= record[name]["high"]
    best, cost = summary["best_single"]["tested"]["cost"]["value"], record["tested"]["cost"]
    given_the_pick = best / cost["low"] - best / cost["high"]
    assert record["speedup"]["high"] - record["speedup"]["low"] > 2 * given_the_pick


def test_the_best_single_stage_against_itself(good):
    def only_b(points):
        b = next(p for p in points if p.family == "b")
        return [replace(b, router="policy"), *(p for p in points if p.router == "single")]

    summary = summarise(*map(only_b, good), how=FEW)
    record = by_margin(summary, "policy", 0.0)
    assert record["speedup"] == {"value": 1, "low": 1, "high": 1}
    assert record["extra_error"] == {"value": 0, "low": 0, "high": 0}
    assert summary["verdict"]["code"] == "no_help"
    assert summary["rivals"] == {}


def test_the_oracle_reaches_all_of_its_own_saving(summary):
    assert by_margin(summary, "soft_oracle", 0.02)["oracle_share"] == {"value": 1, "low": 1, "high": 1}
    assert 0 < by_margin(summary, "joint", 0.02)["oracle_share"]["value"] < 1


def test_areas_are_those_of_corners_chosen_elsewhere(good, summary):
    fit, test = ([p for p in points if p.router == "policy" or p.family == "a"] for points in good)
    hull = lower_hull(*(np.array([getattr(p.routing, name) for p in fit]) for name in ("mean_cost", "error")))
    cost, error = (np.array([getattr(test[i].routing, name) for i in hull]) for name in ("mean_cost", "error"))
    found = summary["area"]
    assert (found["from"], found["to"]) == (1, 10)
    assert found["routers"]["policy"]["value"] == pytest.approx(float(area_along(cost, error, 1.0, 10.0)))
    for other, difference in found["policy_above"].items():
        apart = found["routers"]["policy"]["value"] - found["routers"][other]["value"]
        assert difference["value"] == pytest.approx(apart)
        # Paired: surer than the two areas by themselves.
        width = {name: each["high"] - each["low"] for name, each in found["routers"].items()}
        assert difference["high"] - difference["low"] < width["policy"] + width[other]


def test_verdicts_on_worlds_made_for_them(world):
    assert summarise(*world(policy=0.95, joint=0.3), how=FEW)["verdict"]["code"] == "policy_ahead"
    assert summarise(*world(policy=0.3, joint=0.95), how=FEW)["verdict"]["code"] == "behind"
    assert summarise(*world(policy=0.0, joint=0.0), how=FEW)["verdict"]["code"] == "no_help"
    fit, test = world(policy=0.9)
    twins = [[*points, *(replace(p, router="joint") for p in points if p.router == "policy")] for points in (fit, test)]
    found = summarise(*twins, how=FEW)
    assert found["verdict"]["code"] == "threshold_as_good"
    assert found["area"]["policy_above"]["joint"] == {"value": 0, "low": 0, "high": 0}
    assert [duel["cheaper"] for duel in found["rivals"]["joint"]["margins"]] == [""] * 4
    assert all(duel["times_cheaper"]["value"] == 1 for duel in found["rivals"]["joint"]["margins"])


def test_at_equal_error_the_one_that_sees_more_is_cheaper(summary):
    duels = summary["rivals"]["joint"]["margins"]
    assert any(duel["cheaper"] == "policy" for duel in duels)
    assert not any(duel["cheaper"] == "joint" for duel in duels)


def test_hindsight_picks_on_the_part_that_is_reported(good, summary):
    b = next(p.routing for p in good[1] if p.family == "b")
    for router in ("policy", "joint"):
        points = [p.routing for p in good[1] if p.router == router]
        for margin, speed in zip(
            (0, 0.005, 0.01, 0.02), summary["hindsight"]["routers"][router]["speedup"], strict=True
        ):
            within = [r.mean_cost for r in points if r.error <= b.error + margin + 1e-12]
            assert speed == pytest.approx(b.mean_cost / min(within))


def test_hindsight_has_every_metric(summary):
    for found in summary["hindsight"]["routers"].values():
        assert set(found["on_hull"]) == set(METRICS)
    assert "picked on the test part" in summary["hindsight"]["note"]


def test_summary_is_json_and_the_same_again(good, summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summarise(*good) == summary
    assert summarise(*good, how=Bootstrap(seed=1)) != summary


def test_points_that_cannot_win_change_nothing(good, summary):
    def with_more(points):
        dear = next(p for p in points if p.router == "policy" and p.routing.mean_cost > 5)
        useless = replace(dear, routing=replace(dear.routing, wrong=np.ones(len(dear.routing), bool)))
        return [*points[:5], dear, useless, *points[5:]]

    assert summarise(*map(with_more, good))["routers"] == summary["routers"]


def test_a_single_stage_alone(routes):
    def alone(part):
        point = by_hand(routes, part, [(0, 5)])
        return [point[0], point[2]]

    found = summarise(alone("fit"), alone("test"), how=FEW)
    assert found["verdict"]["code"] == "no_help"
    assert found["area"]["routers"]["policy"] == {"value": None, "low": None, "high": None}


def test_a_free_stage(routes):
    free = replace(routes, spent=np.array([[0.0, 0.0], [0.0, 10.0], [0.0, 10.0]]))
    parts = [by_hand(free, part, [(0, 2), (1, 2)]) for part in ("fit", "test")]
    record = summarise(*parts, how=FEW)["routers"]["policy"][0]
    assert record["speedup"] == {"value": None, "low": None, "high": None}
    assert record["tested"]["spent_share"] == {"a": 0, "b": 0}


def test_lists_that_do_not_fit_together(good):
    fit, test = good
    with pytest.raises(ValueError, match="same order"):
        summarise(fit, test[1:])
    with pytest.raises(ValueError, match="router policy"):
        summarise(*([p for p in points if p.router != "policy"] for points in good))


def test_plain_numbers():
    given = {"a": [np.float64(1 / 3), float("inf")], "b": Estimate(1.0, float("nan"), 2.0), "c": 3, "d": "x", "e": None}
    assert plain(given) == {
        "a": [0.3333333333, None],
        "b": {"value": 1.0, "low": None, "high": 2.0},
        "c": 3,
        "d": "x",
        "e": None,
    }
