"""What every policy must do; a policy that joins ``POLICIES`` joins these tests without an edit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cascades.plain import from_plain, to_plain
from policies import POLICIES
from policies.policy import Decision, Policy, cross_fit, named

COLUMNS = ("belief.doubt", "belief.entropy", "a.entropy", "a.margin", "a~b.same", "a.on_belief")
PRICES = 4


def decision(n: int = 240, actions: int = 2, seed: int = 0, columns: tuple[str, ...] = COLUMNS) -> Decision:
    """Going on pays more the larger the first column is; noise and a price that rises with every problem."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(columns))).astype(np.float32)
    x[:, 4] = x[:, 4] > 0
    gain = 1 / (1 + np.exp(-2 * x[:, :1] - 0.5 * x[:, 2:3] - 0.3 * rng.normal(size=(n, actions - 1))))
    price = np.linspace(0.1, 0.9, PRICES)
    costs = np.zeros((n, actions, PRICES), np.float32)
    costs[:, 0] = 0.7 + 0.1 * rng.normal(size=(n, 1))
    for way in range(1, actions):
        costs[:, way] = costs[:, 0] - gain[:, [way - 1]] + price * (0.6 + 0.4 * way)
    outcome = -gain.astype(np.float32)
    return Decision(columns, x, costs, outcome)


@pytest.fixture(params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> Policy:
    return POLICIES[request.param]


@pytest.mark.parametrize("actions", [2, 3, 4])
def test_actions_are_a_matrix_of_small_integers(policy: Policy, actions: int) -> None:
    seen = decision(actions=actions)
    rules = policy.fit(seen)
    chosen = rules.actions(seen.x)
    assert rules.prices == PRICES
    assert chosen.shape == (len(seen.x), PRICES)
    assert chosen.dtype == np.int8
    assert chosen.min() >= 0
    assert chosen.max() < actions


def test_some_of_the_prices_act_as_they_did_among_all(policy: Policy) -> None:
    seen = decision(actions=3)
    rules = policy.fit(seen)
    some = np.array([2, 0])
    assert np.array_equal(rules.take(some).actions(seen.x), rules.actions(seen.x)[:, some])
    assert rules.take(some).prices == 2


@pytest.mark.parametrize("actions", [2, 3])
def test_rules_survive_json_to_the_last_bit(policy: Policy, actions: int) -> None:
    seen = decision(actions=actions)
    rules = policy.fit(seen)
    text = json.dumps(to_plain(rules), allow_nan=False)
    back = from_plain(json.loads(text))
    assert type(back) is type(rules)
    assert json.dumps(to_plain(back), allow_nan=False) == text
    fresh = decision(n=500, actions=actions, seed=9)
    assert np.array_equal(back.actions(fresh.x), rules.actions(fresh.x))


def test_the_unit_of_cost_changes_no_action(policy: Policy) -> None:
    seen = decision(actions=3)
    scaled = replace(seen, costs=seen.costs * np.float32(1024), outcome=seen.outcome * np.float32(1024))
    assert np.mean(policy.fit(seen).actions(seen.x) == policy.fit(scaled).actions(seen.x)) > 0.995


def test_copying_the_examples_changes_no_action(policy: Policy) -> None:
    seen = decision(actions=2)
    twice = seen.take(np.repeat(np.arange(len(seen.x)), 2))
    same = np.mean(policy.fit(seen).actions(seen.x) == policy.fit(twice).actions(seen.x))
    # trees ask for a number of examples in a leaf, and quantiles of knots move a little
    assert same > (0.9 if "Boosted" in type(policy).__name__ else 0.985)


def test_what_all_actions_cost_alike_does_not_matter(policy: Policy) -> None:
    seen = decision(actions=3)
    toll = np.random.default_rng(1).integers(0, 4, (len(seen.x), 1, 1)).astype(np.float32)
    dearer = replace(seen, costs=seen.costs + toll)
    assert np.mean(policy.fit(seen).actions(seen.x) == policy.fit(dearer).actions(seen.x)) > 0.99


def test_nobody_beats_the_cheapest_action_of_every_example(policy: Policy) -> None:
    seen = decision(actions=3)
    paid = np.take_along_axis(seen.costs, policy.fit(seen).actions(seen.x)[:, None].astype(int), axis=1)[:, 0]
    assert np.all(paid.mean(axis=0) >= seen.costs.min(axis=1).mean(axis=0) - 1e-6)


def test_a_policy_that_may_look_does_not_lose_to_one_that_may_not(policy: Policy) -> None:
    """Held out, on data where looking pays: within chance of the best constant at every price."""
    seen = decision(n=600)
    folds = np.arange(600) % 5
    _, actions = cross_fit(policy, seen, folds)
    paid = np.take_along_axis(seen.costs, actions[:, None].astype(int), axis=1)[:, 0].mean(axis=0)
    assert np.all(paid <= seen.costs.mean(axis=0).min(axis=0) + 0.02)


def test_cross_fitting_shows_no_example_to_its_own_rule(policy: Policy) -> None:
    """What the examples of one fold cost does not change the actions that fold gets."""
    seen = decision()
    folds = np.arange(len(seen.x)) % 3
    poisoned = replace(seen, costs=seen.costs.copy(), outcome=seen.outcome.copy())
    poisoned.costs[folds == 1] = poisoned.costs[folds == 1][:, ::-1]
    poisoned.outcome[folds == 1] *= -1
    before, after = (cross_fit(policy, d, folds)[1] for d in (seen, poisoned))
    assert np.array_equal(before[folds == 1], after[folds == 1])


def test_fitting_twice_is_the_same_and_changes_nothing(policy: Policy) -> None:
    seen = decision(actions=3)
    x, costs = seen.x.copy(), seen.costs.copy()
    one, other = policy.fit(seen), policy.fit(seen)
    assert to_plain(one) == to_plain(other)
    assert np.array_equal(seen.x, x)
    assert np.array_equal(seen.costs, costs)


@pytest.mark.parametrize("n", [20, 51])
def test_few_examples_and_columns_that_never_vary(policy: Policy, n: int) -> None:
    seen = decision(n=n)
    rules = policy.fit(replace(seen, x=np.ones_like(seen.x)))
    chosen = rules.actions(np.ones_like(seen.x))
    assert np.all(chosen == chosen[0])
    best = seen.costs.mean(axis=0).argmin(axis=0)
    assert np.array_equal(chosen[0], best)  # with nothing to see, the best constant


def test_rules_read_as_one_line(policy: Policy) -> None:
    text = str(policy.fit(decision(actions=3)).take(np.array([0])))
    assert text
    assert "\n" not in text
    assert not text.startswith("<")


def test_every_setting_of_the_search_space_makes_a_policy(policy: Policy) -> None:
    for name, values in policy.search_space().items():
        for value in values:
            changed = replace(policy, **{name: value})  # type: ignore[type-var]
            assert getattr(changed, name) == value


def test_columns_are_found_by_their_end_or_their_beginning() -> None:
    columns = ("belief.doubt", "a.entropy", "belief.entropy", "b.margin")
    assert named(columns, ("belief.",)).tolist() == [0, 2]
    assert named(columns, (".entropy",)).tolist() == [1, 2]
    assert named(columns, ("doubt", "b.margin")).tolist() == [0, 3]
    assert named(columns, (".nothing",)).tolist() == []
