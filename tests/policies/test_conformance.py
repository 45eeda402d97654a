"""What every policy must do; a policy that joins ``POLICIES`` joins these tests without an edit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from offramp.cascades.files.codec import from_plain, to_plain
from offramp.cascades.learning.fit import FitSettings
from offramp.eval.tuning.plan import label
from offramp.features.outputs import Floats, Ints
from offramp.policies import DEFAULT_POLICIES, POLICIES
from offramp.policies.policy import Decision, Policy, cross_fit, named

COLUMNS = ("belief.doubt", "belief.entropy", "a.entropy", "a.margin", "a~b.same", "a.on_belief", "a.gate")
PRICES = 4
GRAIN = 1024
"""Costs are multiples of 1 / GRAIN, so that sums of a few of them and powers of two times them are exact."""


def decision(n: int = 240, actions: int = 2, seed: int = 0, columns: tuple[str, ...] = COLUMNS) -> Decision:
    """Going on pays more the larger the first column is; noise and a price that rises with every problem."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(columns) - 1)).astype(np.float32)
    x = np.column_stack([x, np.random.default_rng(seed + 1).normal(size=n).astype(np.float32)])
    x[:, 4] = x[:, 4] > 0
    gain = 1 / (1 + np.exp(-2 * x[:, :1] - 0.5 * x[:, 2:3] - 0.3 * rng.normal(size=(n, actions - 1))))
    price = np.linspace(0.1, 0.9, PRICES)
    costs = np.zeros((n, actions, PRICES))
    costs[:, 0] = 0.7 + 0.1 * rng.normal(size=(n, 1))
    for way in range(1, actions):
        costs[:, way] = costs[:, 0] - gain[:, [way - 1]] + price * (0.6 + 0.4 * way)
    exact = (np.round(costs * GRAIN) / GRAIN).astype(np.float32)
    return Decision(columns, x, exact, -gain.astype(np.float32))


def paid(costs: Floats, actions: Ints) -> Floats:
    """Mean cost (q,) of the actions (n, q) taken."""
    return np.take_along_axis(costs, actions[:, None].astype(int), axis=1)[:, 0].mean(axis=0, dtype=np.float64)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As where sweeps are fitted: the products are small."""
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> Policy:
    return POLICIES[request.param]


# --- what comes out


@pytest.mark.parametrize("actions", [2, 3, 4])
def test_actions_are_a_matrix_of_small_integers(policy: Policy, actions: int) -> None:
    seen, other = decision(actions=actions), decision(n=33, actions=actions, seed=1)
    rules = policy.fit(seen)
    assert rules.prices == PRICES
    for x in (seen.x, other.x, other.x[:1], other.x[:0], 1e6 * other.x):
        chosen = rules.actions(x)
        assert chosen.shape == (len(x), PRICES)
        assert chosen.dtype == np.int8
        assert np.isin(chosen, np.arange(actions)).all()


def test_an_example_s_action_is_its_own(policy: Policy) -> None:
    rules = policy.fit(decision(actions=3))
    x = decision(n=100, actions=3, seed=1).x
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(rules.actions(x[order]), rules.actions(x)[order])
    np.testing.assert_array_equal(rules.actions(x[40:60]), rules.actions(x)[40:60])


def test_some_of_the_prices_act_as_they_did_among_all(policy: Policy) -> None:
    seen = decision(actions=3)
    rules = policy.fit(seen)
    for some in ([2, 0], [1], [3, 3, 1], list(range(PRICES))):
        taken = rules.take(np.array(some))
        assert type(taken) is type(rules)
        assert taken.prices == len(some)
        np.testing.assert_array_equal(taken.actions(seen.x), rules.actions(seen.x)[:, some])


@pytest.mark.parametrize("actions", [2, 3, 4])
def test_rules_survive_json_to_the_last_bit(policy: Policy, actions: int) -> None:
    rules = policy.fit(decision(actions=actions))
    text = json.dumps(to_plain(rules), allow_nan=False)
    back = from_plain(json.loads(text))
    assert type(back) is type(rules)
    assert json.dumps(to_plain(back), allow_nan=False) == text
    assert str(back) == str(rules)
    fresh = decision(n=500, actions=actions, seed=9)
    np.testing.assert_array_equal(back.actions(fresh.x), rules.actions(fresh.x))


def test_rules_read_as_one_line(policy: Policy) -> None:
    rules = policy.fit(decision(actions=3))
    for price in range(PRICES):
        text = str(rules.take(np.array([price])))
        assert 4 <= len(text) <= 200
        assert "\n" not in text
        assert any(word in text for word in ("stop", "go"))
        assert not any(mark in text for mark in ("<policies", "array(", "Rules("))


# --- what doesn't matter


@pytest.mark.parametrize("factor", [2.0**-10, 2.0**10])
def test_the_unit_of_cost_changes_no_action(policy: Policy, factor: float) -> None:
    seen = decision(actions=3)
    unit = np.float32(factor)
    wanted = policy.fit(seen).actions(seen.x)
    for scaled in (
        replace(seen, costs=seen.costs * unit),
        replace(seen, costs=seen.costs * unit, outcome=seen.outcome * unit),
    ):
        np.testing.assert_array_equal(policy.fit(scaled).actions(seen.x), wanted)


NOT_OF_COPIES = {"boosted": "its trees want 20 examples in a leaf, and two halves that have none in common"}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("actions", [2, 3])
def test_copying_the_examples_changes_no_action(name: str, actions: int) -> None:
    seen = decision(actions=actions)
    twice = seen.take(np.concatenate([np.arange(len(seen.x))] * 2))
    one, other = (POLICIES[name].fit(each).actions(seen.x) for each in (seen, twice))
    if name in NOT_OF_COPIES:
        assert np.mean(one == other) > 0.85
    else:
        np.testing.assert_array_equal(one, other)


def test_what_all_actions_cost_alike_does_not_matter(policy: Policy) -> None:
    seen = decision(actions=3)
    toll = np.random.default_rng(1).integers(0, 4 * GRAIN, (len(seen.x), 1, 1)) / GRAIN
    dearer = replace(seen, costs=(seen.costs + toll).astype(np.float32))
    np.testing.assert_array_equal(policy.fit(dearer).actions(seen.x), policy.fit(seen).actions(seen.x))


def test_prices_do_not_disturb_one_another(policy: Policy) -> None:
    # fitted in company or alone, but for the last bits of sums taken in another order
    seen = decision(actions=3)
    together = policy.fit(seen).actions(seen.x)
    for price in range(PRICES):
        alone = policy.fit(replace(seen, costs=seen.costs[:, :, [price]])).actions(seen.x)
        assert np.mean(alone[:, 0] == together[:, price]) > 0.99


def test_columns_that_were_not_asked_for_may_be_anything(policy: Policy) -> None:
    seen = decision(actions=2)
    more = replace(
        seen,
        columns=("id", *seen.columns, "label.guess"),
        x=np.column_stack([np.arange(240), seen.x, np.full(240, 1e9)]).astype(np.float32),
    )
    np.testing.assert_array_equal(policy.fit(more).actions(more.x), policy.fit(seen).actions(seen.x))


# --- what it is worth


@pytest.mark.parametrize("actions", [2, 3])
def test_nobody_beats_the_cheapest_action_of_every_example(policy: Policy, actions: int) -> None:
    seen = decision(actions=actions)
    assert (paid(seen.costs, policy.fit(seen).actions(seen.x)) >= seen.costs.min(axis=1).mean(axis=0) - 1e-6).all()


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("actions", [2, 3, 4])
def test_looking_pays_where_there_is_something_to_see(name: str, actions: int) -> None:
    """Held out: nobody is worse than the best constant but for chance, and who may look gains a third of it all."""
    seen = decision(n=400, actions=actions)
    seen.x[:, [1, 2, 5, 6]] = seen.x[:, :1]  # each family looks at columns of its own: all of them tell
    _, chosen = cross_fit(POLICIES[name], seen, np.arange(400) % 4)
    blind, best = seen.costs.mean(axis=0).min(axis=0), seen.costs.min(axis=1).mean(axis=0)
    gained = blind - paid(seen.costs, chosen)
    assert (gained >= -0.02).all()
    middle = 1  # at the ends of the prices nearly everybody does the same
    if name != "constant":
        assert gained[middle] > (blind - best)[middle] / 3


@pytest.mark.parametrize("actions", [2, 3, 4])
def test_huge_prices_stop_everybody_and_free_ways_on_are_taken(policy: Policy, actions: int) -> None:
    seen = decision(n=300, actions=actions)
    dear, free = seen.costs.copy(), seen.costs.copy()
    dear[:, 1:] = dear[:, :1] + 50
    free[:, 1:] = free[:, :1] + 50
    free[:, actions - 1] = free[:, 0] - 1
    assert (policy.fit(replace(seen, costs=dear)).actions(seen.x) == 0).all()
    assert (policy.fit(replace(seen, costs=free)).actions(seen.x) == actions - 1).all()


@pytest.mark.parametrize("n", [20, 50, 51])
def test_few_examples_and_columns_that_never_vary(policy: Policy, n: int) -> None:
    seen = decision(n=n)
    chosen = policy.fit(replace(seen, x=np.ones_like(seen.x))).actions(np.ones_like(seen.x))
    assert (chosen == chosen[0]).all()
    # with nothing to see, the best constant
    np.testing.assert_array_equal(chosen[0], seen.costs.mean(axis=0).argmin(axis=0))


@pytest.mark.parametrize("n", [3, 50])
@pytest.mark.parametrize("actions", [2, 4])
def test_a_handful_of_examples_is_enough_for_some_rule(policy: Policy, n: int, actions: int) -> None:
    seen = decision(n=n, actions=actions)
    assert policy.fit(seen).actions(decision(n=40, seed=3).x).shape == (40, PRICES)


# --- how it is fitted


@pytest.mark.parametrize("actions", [2, 3])
def test_fitting_twice_is_the_same_and_changes_nothing(policy: Policy, actions: int) -> None:
    seen = decision(actions=actions)
    copy = replace(seen, x=seen.x.copy(), costs=seen.costs.copy(), outcome=seen.outcome.copy())
    for array in (seen.x, seen.costs, seen.outcome):
        array.flags.writeable = False
    settings = repr(policy)
    assert to_plain(policy.fit(seen)) == to_plain(policy.fit(copy)) == to_plain(policy.fit(seen))
    assert repr(policy) == settings
    for field in ("x", "costs", "outcome"):
        np.testing.assert_array_equal(getattr(seen, field), getattr(copy, field))


def test_rules_and_policies_are_frozen(policy: Policy) -> None:
    rules = policy.fit(decision())
    for thing in (policy, rules):
        assert getattr(type(thing), "__dataclass_params__").frozen  # noqa: B009


def test_cross_fitting_is_fitting_on_the_other_folds(policy: Policy) -> None:
    seen = decision(n=200)
    folds = np.random.default_rng(0).choice([2, 5, 9], 200)
    whole, held_out = cross_fit(policy, seen, folds)
    assert to_plain(whole) == to_plain(policy.fit(seen))
    assert held_out.dtype == np.int8
    for fold in (2, 5, 9):
        own = policy.fit(seen.take(np.flatnonzero(folds != fold)))
        np.testing.assert_array_equal(held_out[folds == fold], own.actions(seen.x[folds == fold]))


def test_cross_fitting_shows_no_example_to_its_own_rule(policy: Policy) -> None:
    """What the examples of one fold cost does not change the actions that fold gets."""
    seen = decision()
    folds = np.arange(len(seen.x)) % 3
    poisoned = replace(seen, costs=seen.costs.copy(), outcome=seen.outcome.copy())
    poisoned.costs[folds == 1] = poisoned.costs[folds == 1][:, ::-1]
    poisoned.outcome[folds == 1] *= -1
    before, after = (cross_fit(policy, d, folds)[1] for d in (seen, poisoned))
    np.testing.assert_array_equal(before[folds == 1], after[folds == 1])


def test_what_goes_wrong_in_a_fold_is_heard() -> None:
    class Broken:
        def fit(self, _: Decision) -> object:
            raise ZeroDivisionError("of this policy")

    with pytest.raises(ZeroDivisionError, match="of this policy"):
        cross_fit(Broken(), decision(), np.arange(240) % 2)  # type: ignore[arg-type]


def test_every_setting_of_the_search_space_makes_a_policy_that_works(policy: Policy) -> None:
    seen = decision(n=80, actions=3)
    for name, values in policy.search_space().items():
        assert name in {field.name for field in fields(policy)}  # type: ignore[arg-type]
        assert len(values) > 1
        for value in values:
            changed = replace(policy, **{name: value})  # type: ignore[type-var]
            assert getattr(changed, name) == value
            chosen = changed.fit(seen).actions(seen.x)
            assert chosen.shape == (80, PRICES)
            assert (paid(seen.costs, chosen) <= seen.costs.mean(axis=0).min(axis=0) + 0.1).all()


def test_the_search_space_holds_the_defaults_and_can_be_written_down(policy: Policy) -> None:
    """What a tuner stores are numbers and texts; tuples of texts it joins, and must get back the one it took."""
    for name, values in policy.search_space().items():
        assert getattr(policy, name) in values
        assert len({label(value) for value in values}) == len(values)


@pytest.mark.parametrize("name", POLICIES)
def test_every_setting_of_the_search_space_reaches_the_fit(name: str) -> None:
    for key, values in POLICIES[name].search_space().items():
        for value in values:
            how = FitSettings((name,), options={name: {key: value}})
            assert how.families(1) == how.families(3) == {name: replace(POLICIES[name], **{key: value})}  # type: ignore[type-var]


# --- the registry, decisions and the names of columns


def test_the_default_policies_are_there() -> None:
    assert set(DEFAULT_POLICIES) <= set(POLICIES)
    assert all(name.isidentifier() and name.islower() for name in POLICIES)


def test_some_examples_of_a_decision() -> None:
    seen = replace(decision(n=10), seed=7)
    for rows in (np.array([4, 1, 1]), slice(2, 5)):
        some = seen.take(rows)
        for field in ("x", "costs", "outcome"):
            np.testing.assert_array_equal(getattr(some, field), getattr(seen, field)[rows])
        assert (some.columns, some.seed) == (seen.columns, 7)


def test_columns_are_found_by_their_end_or_their_beginning() -> None:
    columns = ("belief.doubt", "a.entropy", "belief.entropy", "b.margin")
    assert named(columns, ("belief.",)).tolist() == [0, 2]
    assert named(columns, (".entropy",)).tolist() == [1, 2]
    assert named(columns, ("doubt", "b.margin")).tolist() == [0, 3]
    assert named(columns, (".entropy", "belief.")).tolist() == [0, 1, 2]  # each once, in the order of the columns
    assert named(columns, (".nothing",)).tolist() == []
    assert named(columns, ("entropy.",)).tolist() == []
    assert named(("a.entropy.log", "a.belief.doubt"), (".entropy", "belief.")).tolist() == []
    # also as an index where there is none
    assert np.zeros((3, 4))[:, named(columns, ())].shape == (3, 0)
