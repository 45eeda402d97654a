from __future__ import annotations

import numpy as np
import pytest

from offramp.policies.constant import Constant, ConstantRules
from offramp.policies.policy import Decision


def decision(costs: object) -> Decision:
    table = np.asarray(costs, np.float32)
    return Decision(("x",), np.zeros((len(table), 1), np.float32), table, np.zeros((len(table), 1), np.float32))


def test_the_cheapest_on_average_for_each_price() -> None:
    # two examples, three actions, two prices: means 2 and 5, 1.5 and 6, 2 and 4
    rules = Constant().fit(decision([[[1, 4], [0, 7], [2, 2]], [[3, 6], [3, 5], [2, 6]]]))
    assert rules.action.tolist() == [1, 2]
    assert rules.actions(np.zeros((3, 1), np.float32)).tolist() == [[1, 2]] * 3


def test_of_equals_the_first() -> None:
    assert Constant().fit(decision([[[1.0], [1.0], [1.0]]])).action.tolist() == [0]
    assert Constant().fit(decision([[[2.0], [1.0], [1.0]]])).action.tolist() == [1]


def test_means_are_taken_in_double_precision() -> None:
    # in single precision 2^24 + 1 is 2^24, however often
    costs = np.zeros((101, 2, 1))
    costs[0, :, 0] = 2**24, 2**24 + 2
    costs[1:, 0] = 1
    assert Constant().fit(decision(costs)).action.tolist() == [1]


@pytest.mark.parametrize(("action", "text"), [(0, "always stop"), (1, "always go 1"), (3, "always go 3")])
def test_it_reads(action: int, text: str) -> None:
    assert str(ConstantRules(np.array([action, 2]))) == text


def test_there_is_nothing_to_choose() -> None:
    assert Constant().search_space() == {}
