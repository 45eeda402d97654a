"""Monitors and the watch: what is watched, that nothing alarms where nothing has changed, and what an alarm says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from offramp.cascades.files.policy import Bound, Certificate, Reference
from offramp.eval.guarantees.reference import EDGES, Subject
from offramp.eval.monitoring.drift import Watch
from offramp.eval.monitoring.monitors import Find, Monitor, monitors_of, path_sets, risks
from offramp.eval.monitoring.routinglog import NONE, Examples
from offramp.eval.monitoring.sequential import BLOCK, Bets, Urns

PATHS = ("a", "b", "a>b")


def subject(reference: Reference, certificate: Certificate | None = None, loss: str = "top1") -> Subject:
    """Two stages, a of cost 1 and b of cost 10; three classes."""
    runs = np.array([[True, False], [False, True], [True, True]])
    return Subject(PATHS, ("a", "b"), np.array([1.0, 10.0, 11.0]), runs, "ms", 3, reference, certificate, loss)


def certificate(cost: float = 5.0, risk: float = 0.2, kind: str = "error") -> Certificate:
    return Certificate(0.05, (Bound(kind, risk, risk, {}),), cost, cost, 1000, "", "", 0, "")


def draw(
    n: int,
    rng: np.random.Generator,
    onward: float = 0.4,
    sure: float = 4.0,
    answers: Sequence[float] = (0.3, 0.3, 0.4),
    error: float = 0.2,
    labelled: float = 1.0,
) -> Examples:
    """Examples of the two-stage world: a share goes on to b, the surer the larger, so wrong, so often labelled."""
    path = np.where(rng.random(n) < onward, 2, 0)
    answer = rng.choice(3, size=n, p=np.array(answers) / sum(answers))
    label = np.where(rng.random(n) < error, (answer + 1) % 3, answer)
    shown = np.where(rng.random(n) < labelled, label, NONE)
    return Examples(path, rng.beta(sure, 1.5, n), answer, shown, np.where(rng.random(n) < 0.1, NONE, label))


def referred(e: Examples) -> Reference:
    """What ``reference_of`` would say of these."""
    cells = np.searchsorted(EDGES, e.confidence, "right")
    counts = {PATHS[q]: tuple(np.bincount(cells[e.path == q], minlength=len(EDGES) + 1).tolist()) for q in (0, 2)}
    exits = dict(zip(PATHS, np.bincount(e.path, minlength=3).tolist(), strict=True))
    wrong = int((e.answer != e.label).sum())
    return Reference(len(e), exits, EDGES, counts, tuple(np.bincount(e.answer, minlength=3).tolist()), wrong)


@pytest.fixture(scope="module")
def usual() -> Reference:
    return referred(draw(4000, np.random.default_rng(0)))


# --- what is watched


def test_sets_of_paths_are_told_apart_once(usual: Reference) -> None:
    sets, told = path_sets(subject(usual))
    assert told[:2] == ["go to a", "go to b"]  # then "stop after": b alone is all that does not run a
    assert sets.tolist() == [[True, False, True], [False, True, True], [False, False, True]]


def test_what_can_be_watched_is_watched(usual: Reference) -> None:
    def names(found: Subject) -> list[str]:
        return [monitor.name for monitor in monitors_of(found, np.random.default_rng(0))]

    assert names(subject(usual)) == ["exits", "cost", "confidence", "answers", "error"]
    assert names(subject(usual, certificate()))[-2:] == ["cost bound", "risk bound"]
    assert names(subject(usual, certificate(cost=11.0), "top5"))[-1] == "error"
    both = replace(
        certificate(),
        bounds=(Bound("increase", 0.01, 0.0, {}), Bound("error", 0.2, 0.2, {}), Bound("error", 1.0, 0, {})),
    )
    assert names(subject(usual, both))[-3:] == ["cost bound", "increase bound", "error bound"]
    assert names(subject(replace(usual, counts={}, answers=(), wrong=None))) == ["exits", "cost"]


def monitor_of(name: str, watched: Subject) -> Monitor:
    return next(one for one in monitors_of(watched, np.random.default_rng(0)) if one.name == name)


def test_what_can_not_change_is_not_watched(usual: Reference) -> None:
    same = replace(subject(usual), cost=np.full(3, 2.0))
    assert "cost" not in [monitor.name for monitor in monitors_of(same, np.random.default_rng(0))]
    one_way = replace(subject(usual), paths=("a", "a>b"), runs=np.array([[True, False], [True, True]]))
    assert path_sets(one_way)[1] == ["go to b"]  # to stop after a>b is the same, after a the contrary


def test_a_path_that_a_reference_does_not_name_was_not_taken(usual: Reference) -> None:
    short = replace(usual, exits={"a": usual.exits["a"], "a>b": usual.exits["a>b"]})
    for name in ("exits", "cost"):
        one, other = (monitor_of(name, subject(reference)) for reference in (usual, short))
        lines, draws = draw(500, np.random.default_rng(20)), np.random.default_rng(21).random((500, 2))
        np.testing.assert_array_equal(one.count(lines, draws), other.count(lines, draws))


@pytest.mark.parametrize("name", ["exits", "cost", "confidence", "answers", "error"])
def test_the_references_own_examples_fall_above_cuts_as_often_as_gaps_do(name: str, usual: Reference) -> None:
    lines, rng = draw(4000, np.random.default_rng(0)), np.random.default_rng(22)
    monitor = monitor_of(name, subject(usual))
    assert isinstance(monitor.test, Urns)
    counts = monitor.count(lines, rng.random((4000, 2)))
    share = monitor.test.above / (monitor.test.above + monitor.test.below)
    np.testing.assert_allclose(counts[:, :-1] / counts[:, -1:], share, atol=0.03)


def test_a_bound_on_a_risk_is_bet_on_from_minus_one_to_one(usual: Reference) -> None:
    found = monitor_of("risk bound", subject(usual, certificate(risk=0.1))).test
    assert isinstance(found, Bets)
    np.testing.assert_array_equal(found.table, Bets(np.array([0, 0.5, 1]), 0.55).table)


def test_all_paths_together_are_told_as_the_one_that_shows_it_best(usual: Reference) -> None:
    """Each cut is at a confidence of its own cell; together there is one more sequence, of one path there is not."""
    monitor = monitor_of("confidence", subject(usual))
    test = monitor.test
    assert isinstance(test, Urns)
    assert test.sequences == 3
    alone = replace(usual, counts={"a": usual.counts["a"]})
    assert monitor_of("confidence", subject(alone)).test.sequences == 1
    zero, ends = np.zeros(test.shape, int), np.array([0.0, *EDGES, 1.0])
    for s, name in enumerate(("a", "a>b")):
        below = np.cumsum([0, *usual.counts[name]])
        for cut in range(test.shape[1] - 1):
            after = zero + 1
            text = monitor.words(Find(s, cut, True, zero, after, {}))
            found = re.search(r"stop after (\S+) .* under (\S+) for", text)
            assert found is not None
            assert found[1] == name
            place = int(test.below[s, cut])  # of the score that is cut at
            cell = int(np.searchsorted(below, place)) - 1
            assert ends[cell] * 0.999 <= float(found[2]) <= ends[cell + 1] * 1.001
    cut = 14
    for best in (0, 1):
        for up in (True, False):
            after = np.full(test.shape, 400)
            shares = test.above / (test.above + test.below)
            after[:, :-1] = np.round(400 * shares)
            after[1 - best, cut] += -20 if up else 20  # the other path moves the other way
            after[best, cut] += 60 if up else -60
            text = monitor.words(Find(2, cut, up, zero, after, {}))
            assert f"stop after {('a', 'a>b')[best]} are {'surer' if up else 'less sure'} than" in text


CHANGES = {
    "exits": ({"onward": 0.3}, "fewer examples than in the reference go to b: 29.4 % against 40.4 %"),
    "cost": ({"onward": 0.5}, "the mean cost is higher than in the reference: "),
    "confidence": ({"sure": 3.0}, "are less sure than in the reference: confidence is under "),
    "answers": ({"answers": (0.2, 0.4, 0.4)}, "class "),
    "error": ({"error": 0.3}, "answers are wrong more often than in the reference: "),
    "cost bound": ({"onward": 0.5}, "the mean cost is above the certified bound: "),
    "risk bound": ({"error": 0.3}, "the error is above the certified bound: "),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_told_in_words(name: str, usual: Reference) -> None:
    rng = np.random.default_rng(5)
    watch = Watch(subject(usual, certificate(cost=5.3, risk=0.22)), 0.05)
    assert watch.feed(draw(5000, rng)) == []
    changed, says = CHANGES[name]
    watch.feed(draw(5000, rng, **changed))  # type: ignore[arg-type]
    alarms = {alarm.monitor: alarm for alarm in watch.alarms}
    alarm = alarms[name]
    assert says in alarm.text
    assert 5000 < alarm.at <= 10_000
    assert alarm.at % BLOCK == 0
    assert abs(alarm.since - 5000) <= 1500
    assert alarm.text.startswith(f"since about example {alarm.since + 1:,}: ")
    assert alarm.log_e >= watch.needed == pytest.approx(np.log(7 / 0.05))
    unrelated = set(CHANGES) - {name}
    if name == "error":
        unrelated -= {"risk bound"}
    if name == "risk bound":
        unrelated -= {"error"}
    if "cost" in name or name == "exits":
        unrelated -= {"exits", "cost", "cost bound"}
    assert not unrelated & set(alarms)


def share(of: NDArray[np.bool_] | float) -> str:
    return f"{100 * float(np.mean(of)):.3g} %"


@pytest.mark.parametrize("name", CHANGES)
def test_the_numbers_that_are_told_are_those_since_it_began(name: str, usual: Reference) -> None:
    rng = np.random.default_rng(5)
    watched = subject(usual, certificate(cost=5.3, risk=0.22))
    watch = Watch(watched, 0.05)
    parts = [draw(5000, rng, labelled=0.7), draw(5000, rng, labelled=0.7, **CHANGES[name][0])]  # type: ignore[arg-type]
    for part in parts:
        watch.feed(part)
    alarm = next(alarm for alarm in watch.alarms if alarm.monitor == name)
    e = Examples(*(np.concatenate([vars(part)[field] for part in parts]) for field in vars(parts[0])))
    e = e.take(slice(alarm.since, alarm.at))
    cost, then = watched.cost[e.path].mean(), watched.cost @ list(usual.exits.values()) / usual.examples
    known = e.label != NONE
    wrong = (e.answer != e.label)[known]
    assert usual.wrong is not None
    expected = {
        "exits": f": {share(e.path == 2)} against {share(usual.exits['a>b'] / 4000)}",
        "cost": f": {cost:.4g} against {then:.4g} ms",
        "error": f": {share(wrong)} against {share(usual.wrong / 4000)} (of {known.sum():,} labelled)",
        "cost bound": f": {cost:.4g} against 5.3 ms",
        "risk bound": f": {share(wrong)} against 22 % (of {known.sum():,} labelled)",
    }
    if name == "answers":
        found = re.search(r"class (\d) is answered (more|less) often than in the reference: (.*)$", alarm.text)
        assert found is not None
        k = int(found[1])
        now, before = np.mean(e.answer == k), usual.answers[k] / 4000
        assert found[2] == ("more" if now > before else "less")
        assert found[3] == f"{share(now)} against {share(before)}"
    elif name == "confidence":
        found = re.search(
            r"stop after (a|a>b) are less .*: confidence is under (\S+) for (\S+) % against (\S+) %", alarm.text
        )
        assert found is not None
        sure = e.confidence[e.path == PATHS.index(found[1])]
        at = float(found[2])  # scores within a cell are drawn, so the shares are about these
        assert float(found[3]) == pytest.approx(100 * np.mean(sure < at), abs=2.5)
        assert float(found[4]) == pytest.approx(100 * stats.beta(4, 1.5).cdf(at), abs=2.5)
    else:
        assert alarm.text.endswith(expected[name])


def test_an_increase_is_told_with_its_sign(usual: Reference) -> None:
    """Of 5 examples one has become right over the largest stage, and two wrong: 20 % more errors."""
    watch = Watch(subject(usual, certificate(risk=0.1, kind="increase")), 0.05)
    label, answer, largest = np.zeros(5, int), np.array([0, 1, 1, 0, 1]), np.array([1, 0, 0, 0, 1])
    late = Examples(*(np.tile(one, 800) for one in (np.full(5, NONE), np.full(5, 0.5), answer, label, largest)))
    watch.feed(replace(late, path=np.zeros(4000, int), label=np.full(4000, NONE)))  # what they are the labels of
    watch.feed(late)
    text = next(alarm.text for alarm in watch.alarms if alarm.monitor == "risk bound")
    says = r": the increase of the error over the largest stage is above the certified bound: 20 % against 10 % "
    assert re.search(says + r"\(of [\d,]+ labelled\)$", text)


def test_many_classes_are_watched_in_groups(usual: Reference) -> None:
    """130 classes by threes, the last one alone."""
    many = replace(subject(replace(usual, answers=(10,) * 130, examples=1300, exits={"a": 1300})), classes=130)
    monitor = next(m for m in monitors_of(many, np.random.default_rng(0)) if m.name == "answers")
    assert monitor.test.shape[0] == 44
    e = replace(draw(1000, np.random.default_rng(16)), answer=np.arange(1000) % 130)
    for classes, says in ((129, "class 129 is answered more"), (4, "classes 3 to 5 are answered more")):
        watch = Watch(many, 0.05)
        watch.feed(replace(e, answer=np.where(np.arange(1000) % 4 == 0, classes, e.answer)))
        (text,) = (alarm.text for alarm in watch.alarms if alarm.monitor == "answers")
        assert says in text
    twice = replace(many, classes=64, reference=replace(many.reference, answers=(10,) * 64))
    assert next(m for m in monitors_of(twice, np.random.default_rng(0)) if m.name == "answers").test.shape[0] == 64


def test_watching_for_more_is_blind_to_less(usual: Reference) -> None:
    watch = Watch(subject(usual, certificate(cost=5.3, risk=0.22)), 0.05)
    watch.feed(draw(10_000, np.random.default_rng(6), onward=0.2, error=0.05))
    assert {alarm.monitor for alarm in watch.alarms} == {"exits"}


def test_a_class_that_is_gone_and_one_never_seen(usual: Reference) -> None:
    gone = Watch(subject(usual), 0.05)
    gone.feed(draw(3000, np.random.default_rng(7), answers=(0, 0.43, 0.57)))
    assert "class 0 is answered less often than in the reference: 0 % against" in gone.alarms[0].text
    never = Watch(subject(replace(usual, answers=(1700, 2300, 0))), 0.05)
    rng = np.random.default_rng(8)
    never.feed(draw(500, rng, answers=(0.4, 0.57, 0.03)))
    assert "class 2 is answered more often" in never.alarms[0].text


def test_an_unchanged_world_seldom_alarms() -> None:
    """A hundred small references, each its own sample, and bounds that hold by nothing: at most 5 % of them may."""
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng([9, seed])
        watch = Watch(subject(referred(draw(150, rng)), certificate(cost=5.0, risk=0.2)), 0.05, seed)
        watch.feed(draw(1000, rng))
        alarms += bool(watch.alarms)
    assert alarms <= 5


def test_a_reference_of_few_is_believed_little() -> None:
    """Held as the truth, 40 of 100 would make 34 % of 2,000 an alarm; as a sample of it, they don't."""
    rng = np.random.default_rng(10)
    few = draw(100, rng)
    few = replace(few, path=np.repeat([2, 0], [40, 60]))
    watch = Watch(subject(replace(referred(few), counts={})), 0.05)
    watch.feed(draw(2000, rng, onward=0.34))
    assert "exits" not in {alarm.monitor for alarm in watch.alarms}
    assert stats.binomtest(round(0.34 * 2000), 2000, 0.4).pvalue < 1e-6


def test_lines_may_come_in_any_parts(usual: Reference) -> None:
    lines = draw(1300, np.random.default_rng(11), labelled=0.3)
    whole, parts = (Watch(subject(usual, certificate()), 0.05) for _ in range(2))
    whole.feed(lines)
    for begin, end in ((0, 1), (1, 249), (249, 251), (251, 1000), (1000, 1000), (1000, 1300)):
        parts.feed(lines.take(slice(begin, end)))
    assert json.dumps(parts.to_plain()) == json.dumps(whole.to_plain())


def test_a_watch_that_is_taken_up_goes_on_as_if_nothing_had_happened(usual: Reference) -> None:
    rng = np.random.default_rng(12)
    lines, changed = draw(7100, rng), draw(5000, rng, onward=0.5, answers=(0.4, 0.3, 0.3))
    whole = Watch(subject(usual, certificate(cost=5.3)), 0.05)
    whole.feed(lines)
    again = Watch(subject(usual, certificate(cost=5.3)), 0.05)
    again.take_up(json.loads(json.dumps(whole.to_plain())))
    whole.feed(changed)
    again.feed(changed.take(slice(2000)))
    state = json.loads(json.dumps(again.to_plain()))
    again = Watch(subject(usual, certificate(cost=5.3)), 0.05)
    again.take_up(state)
    again.feed(changed.take(slice(2000, None)))
    assert again.to_plain() == whole.to_plain()
    assert len(again.alarms) >= 2


def test_another_states_is_refused(usual: Reference) -> None:
    state = Watch(subject(usual), 0.05).to_plain()
    Watch(subject(usual), 0.05).take_up(state)  # its own is not, even before the first example
    for other in (
        Watch(subject(usual), 0.01),
        Watch(subject(usual), 0.05, 1),
        Watch(subject(usual, certificate()), 0.05),
    ):
        with pytest.raises(ValueError, match="another policy"):
            other.take_up(state)
    broken: list[Callable[[dict[str, object]], object]] = [
        lambda s: s.update(lines="9"),
        lambda s: s["counts"].update(paths=[1, 2]),  # type: ignore[attr-defined]
        lambda s: s["counts"].update(paths=[1, 2, -3]),  # type: ignore[attr-defined]
        lambda s: s["monitors"].pop("exits"),  # type: ignore[attr-defined]
        lambda s: s["monitors"]["exits"].update(starts=[1]),  # type: ignore[index]
        lambda s: s["monitors"]["exits"].update(saved=[float("nan")] * 3),  # type: ignore[index]
        lambda s: s["monitors"]["exits"].update(alarm={"monitor": 1}),  # type: ignore[index]
        lambda s: s["draws"].pop("inc"),  # type: ignore[attr-defined]
    ]
    for spoil in broken:
        spoilt = json.loads(json.dumps(state))
        spoil(spoilt)
        with pytest.raises((ValueError, KeyError, TypeError)):
            Watch(subject(usual), 0.05).take_up(spoilt)


def test_risk_is_the_certificates_own(usual: Reference) -> None:
    label, answer = np.array([0, 0, 0, 0, 0, NONE]), np.array([0, 0, 1, 1, 1, 1])
    largest = np.array([0, 1, 0, 1, NONE, 1])
    lines = Examples(np.full(6, 2), np.full(6, 0.5), answer, label, largest)
    assert risks(lines, "increase", "top1").tolist() == [0, -1, 1, 0]
    assert risks(lines, "error", "top1").tolist() == [0, 0, 1, 1, 1]
    assert risks(lines, "error", "excess").tolist() == [0, 0, 1, 0]


def test_late_labels_count_for_nothing_but_the_risk(usual: Reference) -> None:
    late = replace(draw(600, np.random.default_rng(13), error=0.6), path=np.full(600, NONE))
    watch = Watch(subject(usual, certificate()), 0.05)
    watch.feed(draw(600, np.random.default_rng(13), error=0.6, labelled=0.0))
    before = {name: counts.copy() for name, counts in watch.counts.items()}
    watch.feed(late)
    for name in ("paths", "answers"):
        np.testing.assert_array_equal(watch.counts[name], before[name])
    assert watch.examples == 600
    assert {alarm.monitor for alarm in watch.alarms} == {"error", "risk bound"}
    assert watch.excess < 60  # answers and errors are drawn together


def test_a_label_counts_once(usual: Reference) -> None:
    """Late labels of examples that had one, or that came twice, or whose answer nobody gave, are passed over."""
    watch = Watch(subject(usual, certificate()), 0.05)
    answer, label = np.array([0, 0, 1, 2]), np.array([0, NONE, NONE, 2])
    watch.feed(Examples(np.zeros(4, int), np.full(4, 0.9), answer, label, np.full(4, NONE)))
    assert watch.counts["right or wrong"].tolist() == [2, 0]
    assert watch.open.tolist() == [1, 1, 0]
    late = Examples(
        np.full(4, NONE), np.full(4, np.nan), np.array([0, 0, 1, 2]), np.array([0, 0, 2, 2]), np.full(4, NONE)
    )
    watch.feed(late)
    assert watch.counts["right or wrong"].tolist() == [3, 1]
    assert (watch.excess, watch.open.tolist()) == (2, [0, 0, 0])
    other = Watch(subject(usual, certificate()), 0.05)
    other.take_up(json.loads(json.dumps(watch.to_plain())))
    assert (other.excess, other.open.tolist()) == (2, [0, 0, 0])
    watch.feed(late)
    assert (watch.excess, watch.counts["right or wrong"].tolist()) == (6, [3, 1])


def test_the_most_evidence_so_far_stays_and_is_that_of_the_best_sequence(usual: Reference) -> None:
    watch = Watch(subject(usual), 1e-99)
    watch.feed(draw(1000, np.random.default_rng(17), answers=(0.22, 0.38, 0.4)))
    answers = next(monitor for monitor in watch.monitors if monitor.name == "answers")
    restarts = answers.restarts
    logs = restarts.look(restarts.worth()) - np.log(3)
    assert answers.highest == pytest.approx(logs.max())
    assert logs.max() > logs.min() + 1
    before = answers.highest
    watch.feed(draw(5000, np.random.default_rng(18)))
    assert answers.highest == before > (restarts.look(restarts.worth()) - np.log(3)).max()


@pytest.mark.parametrize("surer", [True, False])
def test_the_way_and_the_cut_of_an_alarm_are_those_that_won_most(surer: bool, usual: Reference) -> None:
    watch = Watch(subject(usual), 0.05)
    watch.feed(draw(3000, np.random.default_rng(19), sure=6.0 if surer else 2.8))
    (text,) = (alarm.text for alarm in watch.alarms if alarm.monitor == "confidence")
    found = re.search(r"are (surer|less sure) than .* for (\S+) % against (\S+) %", text)
    assert found is not None
    assert found[1] == ("surer" if surer else "less sure")
    assert abs(float(found[2]) - float(found[3])) > 10  # where it differs most, not where it hardly does
