import re

import pytest

from offramp.eval.report.routers import rivals, routers
from offramp.eval.report.verdict import verdict


def estimate(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high}


def margin(speedup, extra, at=0.0):
    return {"margin": at, "reached": True, "speedup": estimate(*speedup), "extra_error": estimate(*extra)}


def duel(low, high, at=0.0):
    cheaper = "policy" if low > 1 else "joint" if high < 1 else ""
    return {"margin": at, "times_cheaper": estimate(low, high), "cheaper": cheaper}


def summary(policy=(2.0, 3.0), joint=(2.0, 3.0), difference=(-0.1, 0.1), duels=((0.9, 1.1), (0.9, 1.1)), singles=-0.1):
    """A summary in which the policy and the thresholds help, and neither is ahead, unless something is said."""
    margins = (0.0, 0.005)
    return {
        "best_single": {"stage": "big"},
        "area": {
            "above_singles": dict.fromkeys(("policy", "joint"), estimate(singles - 0.01, singles + 0.01)),
            "policy_above": {"joint": estimate(*difference)},
        },
        "routers": {
            "policy": [margin(policy, (-0.01, 0.01), at) for at in margins],
            "joint": [margin(joint, (-0.01, 0.01), at) for at in margins],
        },
        "rivals": {
            "joint": {
                "chosen_area": 0.2,
                "margins": [duel(*each, at) for each, at in zip(duels, margins, strict=True)],
            }
        },
    }


def without_rival(found):
    found["area"]["policy_above"], found["rivals"] = {}, {}
    del found["routers"]["joint"]
    return found


CASES = {
    "level": (summary(), "threshold_as_good"),
    "less area but no cheaper anywhere": (summary(difference=(-0.2, -0.1)), "policy_ahead"),
    "cheaper at a margin but no less area": (summary(duels=((0.9, 1.1), (1.1, 1.3))), "threshold_as_good"),
    "less area and cheaper": (summary(difference=(-0.2, -0.1), duels=((1.1, 1.3), (0.9, 1.1))), "policy_ahead"),
    "less area, cheaper and dearer": (summary(difference=(-0.2, -0.1), duels=((1.1, 1.3), (0.5, 0.8))), "policy_ahead"),
    "more area": (summary(difference=(0.1, 0.2)), "behind"),
    "more area and cheaper": (summary(difference=(0.1, 0.2), duels=((1.1, 1.3), (0.9, 1.1))), "behind"),
    "dearer at a margin": (summary(duels=((0.9, 1.1), (0.5, 0.8))), "behind"),
    "nothing saves": (summary((0.9, 1.1), (0.9, 1.1), singles=0.1), "no_help"),
    "nothing saves but the area is less": (summary((0.9, 1.1), (0.9, 1.1)), "threshold_as_good"),
    "thresholds alone save": (summary((0.9, 1.1), difference=(0.1, 0.2), singles=0.1), "behind"),
    "no threshold was tried": (without_rival(summary()), "policy_ahead"),
    "no threshold was tried, nothing saves": (without_rival(summary((0.9, 1.1), singles=0.1)), "no_help"),
}


@pytest.mark.parametrize("case", CASES)
def test_code_of(case):
    found, code = CASES[case]
    assert verdict(found)["code"] == code


@pytest.mark.parametrize("case", CASES)
def test_text_is_a_line_of_whole_sentences(case):
    text = verdict(CASES[case][0])["text"]
    assert re.fullmatch(r"[A-Z][^\n]*\.", text)
    assert "big" in text or "over all budgets" in text
    assert "  " not in text
    assert "nan" not in text


def test_a_saving_bought_with_errors_is_none():
    found = summary((2.0, 3.0), (2.0, 3.0), singles=0.1)
    assert verdict(found)["code"] == "threshold_as_good"
    for router in ("policy", "joint"):
        found["routers"][router][0]["extra_error"] = estimate(0.001, 0.01)
    assert verdict(found)["code"] == "no_help"


def test_what_does_not_reach_the_error_does_not_help():
    found = summary(singles=0.1)
    found["routers"]["policy"][0] = found["routers"]["joint"][0] = {"margin": 0.0, "reached": False}
    assert verdict(found)["code"] == "no_help"


def test_numbers_that_do_not_exist_decide_nothing():
    nothing = {"value": None, "low": None, "high": None}
    found = summary(singles=0.1)
    found["area"]["policy_above"]["joint"] = nothing
    found["area"]["above_singles"] = dict.fromkeys(("policy", "joint"), nothing)
    found["rivals"]["joint"]["chosen_area"] = None
    assert verdict(found)["code"] == "threshold_as_good"
    found["routers"]["policy"][0]["speedup"] = found["routers"]["joint"][0]["speedup"] = nothing
    assert verdict(found)["code"] == "no_help"


def test_text_says_what_was_won_and_where():
    found = summary(difference=(-0.2, -0.1), duels=((0.9, 1.1), (1.25, 1.75)))
    text = verdict(found)["text"]
    assert "jointly tuned thresholds" in text
    assert "within 0.5 points of big's error it costs 2.50 times less than big" in text
    assert "1.50 times less (1.25 to 1.75) than they" in text


def test_text_says_what_was_lost_the_other_way_round():
    text = verdict(summary(duels=((0.4, 0.6), (0.9, 1.1))))["text"]
    assert "at big's error the learned policy costs 2.00 times more (1.67 to 2.50)" in text


def test_the_rival_is_the_better_one_on_the_part_that_points_are_chosen_on():
    found = summary()
    found["rivals"]["myopic"] = {"chosen_area": 0.1, "margins": [duel(0.9, 1.1)]}
    found["routers"]["myopic"] = found["routers"]["joint"]
    found["area"]["policy_above"]["myopic"] = estimate(0.1, 0.2)
    found["area"]["above_singles"]["myopic"] = estimate(-0.2, -0.1)
    assert verdict(found)["rival"] == "myopic"
    assert verdict(found)["code"] == "behind"
    found["rivals"]["myopic"]["chosen_area"] = 0.3
    assert verdict(found)["rival"] == "joint"


def test_every_rival_has_a_name():
    assert rivals() == ("joint", "entropy", "myopic")
    assert all(routers()[name].told for name in rivals())
