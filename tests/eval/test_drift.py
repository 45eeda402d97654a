"""The tests of drift are martingales, exactly; logs are read back as they were written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cascades.deployment import Certificate, Reference
from cascades.routing import Routes, Routing
from eval.drift import (
    BLOCK,
    EDGES,
    LONGEST,
    NONE,
    Bets,
    Examples,
    Lines,
    Log,
    Restarts,
    Subject,
    Urns,
    Watch,
    confidences,
    cuts,
    kept,
    monitors_of,
    path_sets,
    read_log,
    reference_of,
    risks,
    thresholds,
    waiting,
    weight,
    write_log,
)
from features.errors import InputError
from features.outputs import Outputs, Stage

NOTE = np.zeros(1, dtype=np.int64)
PATHS = ("a", "b", "a>b")


def subject(reference: Reference, certificate: Certificate | None = None, loss: str = "top1") -> Subject:
    """Two stages, a of cost 1 and b of cost 10; three classes."""
    runs = np.array([[True, False], [False, True], [True, True]])
    return Subject(PATHS, ("a", "b"), np.array([1.0, 10.0, 11.0]), runs, "ms", 3, reference, certificate, loss)


def certificate(cost: float = 5.0, risk: float = 0.2, kind: str = "error") -> Certificate:
    return Certificate(0.05, kind, risk, cost, risk, cost, 1000, "", "")


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


# --- the mathematics


@pytest.mark.parametrize(("p", "n", "above"), [(0.3, 20, 6), (0.3, 20, 1), (0.02, 50, 10), (0.9, 7, 7), (0.0, 9, 4)])
def test_a_cut_leaves_a_random_share_above_that_is_beta_whatever_the_probabilities(
    p: float, n: int, above: int
) -> None:
    rng = np.random.default_rng(int(1000 * p) + above)
    shares = []
    for _ in range(2000):
        k = int(rng.binomial(n, p))
        (at,) = thresholds([n - k, k], np.array([above]), rng)
        shares.append(p * min(1.0, 2 - at) if at >= 1 else p + (1 - p) * (1 - at))
    assert stats.kstest(shares, stats.beta(above, n + 1 - above).cdf).pvalue > 0.001


def test_several_cuts_are_at_several_of_the_same_scores() -> None:
    """The share between two cuts is a spacing, so Beta too; and cuts come in the order of the shares."""
    rng = np.random.default_rng(3)
    between = []
    for _ in range(2000):
        at = thresholds([0, 12, 0], np.array([2, 9, 9, 5]), rng)
        assert at[1] == at[2] < at[3] < at[0]
        assert ((at > 1) & (at < 2)).all()
        between.append(at[0] - at[3])
    assert stats.kstest(between, stats.beta(3, 10).cdf).pvalue > 0.001


def test_cuts_cover_both_ends_and_never_leave_the_reference() -> None:
    found = cuts(np.array([1, 40, 10_000]))
    assert (found[0] == 1).all()
    assert (found >= 1).all()
    assert (found[1] <= 40).all()
    assert (np.diff(found, axis=1) >= 0).all()
    assert found[2, 0] == 2
    assert found[2, -1] == 10_000 + 1 - 2
    assert {5000, 5001} & set(found[2].tolist())  # a half


def test_thresholds_take_no_time_for_a_reference_of_any_size() -> None:
    """Hostile counts are numbers like any other."""
    n = 2**53
    assert thresholds([n // 2, n - n // 2], cuts(np.array([n]))[0], np.random.default_rng(0)).shape[0] > 20


def sequences(above: Sequence[int], n: int, steps: int) -> Iterable[tuple[float, list[int]]]:
    """Every sequence of cells between cuts, as counted above each cut, with the urn's probability: by hand."""
    gaps = np.diff([0, *above, n + 1])
    for cells in product(range(len(gaps)), repeat=steps):
        urn, chance = gaps.astype(float), 1.0
        for cell in cells:
            chance *= urn[cell] / urn.sum()
            urn[cell] += 1
        yield chance, list(cells)


@pytest.mark.parametrize("ways", ["both", "up"])
@pytest.mark.parametrize(("above", "n"), [([3], 5), ([2, 5], 6)])
def test_the_mean_wealth_of_an_urn_is_one(ways: str, above: list[int], n: int) -> None:
    """With a start at every step, some of them given up: over all that may come, the e-value is one on average."""
    mean, low, high = 0.0, np.inf, 0.0
    for chance, cells in sequences(above, n, 6 if len(above) == 1 else 5):
        restarts = Restarts(Urns(np.array([above]), np.array([n]), ways))
        restarts.start(0, NOTE)
        for cell in cells:
            restarts.now[0, :-1] += np.arange(len(above)) >= cell
            restarts.now[0, -1] += 1
            worth = restarts.worth()
            e = float(np.exp(restarts.look(worth)[0]))
            restarts.close(worth, NOTE)
            assert np.exp(restarts.look(restarts.worth())[0]) == pytest.approx(e, rel=1e-12)
        mean += chance * e
        low, high = min(low, e), max(high, e)
    assert mean == pytest.approx(1, abs=1e-9)
    assert low < 0.95
    assert high > 1.2


def test_sequences_that_move_together_multiply() -> None:
    urns = Urns(np.array([[3], [3]]), np.array([5, 5]), together=True)
    then = np.zeros((2, 2), int)
    start = [one[None] for one in urns.prepare(then)]
    now = np.array([[4, 5], [1, 2]])
    logs = urns.logs(start, now)[0]
    assert logs.shape[0] == urns.sequences == 3
    np.testing.assert_allclose(logs[2], logs[0] + logs[1])
    alone = Urns(np.array([[3]]), np.array([5]))
    np.testing.assert_allclose(
        logs[1], alone.logs([one[None] for one in alone.prepare(then[:1])], now[1:])[0, 0], atol=1e-12
    )


def test_wealth_is_what_bets_one_after_the_other_earn() -> None:
    """Counts tell all: the urn doesn't care for the order, nor do fixed odds."""
    urns = Urns(np.array([[3]]), np.array([5]), "up")
    then = np.array([[2, 3]])  # above: 5 of 9
    start = [one[None] for one in urns.prepare(then)]
    by_hand = np.zeros(len(urns.shifts))
    up, seen = 5.0, 9.0
    odds = 5 / 4 * np.exp(urns.shifts)
    for above in (1, 0, 1, 1):
        bet = odds / (1 + odds)
        by_hand += np.log(np.where(above, bet, 1 - bet) / (up / seen if above else 1 - up / seen))
        up, seen = up + above, seen + 1
    np.testing.assert_allclose(urns.logs(start, np.array([[5, 7]]))[0, 0, 0], by_hand)


@pytest.mark.parametrize("bound", [0.25, 0.5])
def test_the_mean_wealth_of_bets_is_one_at_the_bound_and_less_below(bound: float) -> None:
    outcomes = np.array([0.0, 0.5, 1.0])
    for slack in (0.0, 0.1):
        top = (bound - slack) / 1.5
        chances = np.array([1 - 2 * top, top, top])
        mean = 0.0
        for drawn in product(range(3), repeat=6):
            restarts = Restarts(Bets(outcomes, bound))
            restarts.start(0, NOTE)
            for one in drawn:
                restarts.now[0, one] += 1
                restarts.close(restarts.worth(), NOTE)
            e = float(np.exp(restarts.look(restarts.worth())[0]))
            assert e > 0
            mean += e * chances[list(drawn)].prod()
        assert mean == pytest.approx(1, abs=1e-9) if slack == 0 else mean < 0.95


def test_bets_win_where_the_mean_is_above_the_bound() -> None:
    bets = Bets(np.array([0.0, 1.0]), 0.2)
    start = [one[None] for one in bets.prepare(np.zeros((1, 2), int))]
    assert bets.wealth(start, np.array([[700, 300]]))[0, 0] > 1e6
    assert bets.wealth(start, np.array([[850, 150]]))[0, 0] < 1


def test_capital_is_shared_out_and_starts_stay_few() -> None:
    assert sum(weight(start) for start in range(500)) + waiting(499) == pytest.approx(1, abs=1e-12)
    there = [start for start in range(100_001) if kept(start, 100_000)]
    assert 40 < len(there) < 100
    assert there[0] == 0
    assert there[-1] == 100_000
    for start in there[1:]:  # what is kept now was kept all the time
        assert all(kept(start, block) for block in range(start, 100_000, 997))


# --- what is watched


def test_the_reference_by_hand(routes: Routes) -> None:
    sure = np.array([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.34, 0.33, 0.33]])
    stages = (Stage("b", logits=np.log(sure[::-1])), Stage("a", logits=np.log(sure)))
    outputs = Outputs(stages, np.array([0, 0, 2, 1]), np.arange(4), "certify", 3)
    routing = Routing(
        routes, np.array([0, 0, 2, 2]), np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1]), "certify"
    )  # a, a, a>b, a>b
    np.testing.assert_allclose(confidences(routing, outputs), [0.5, 0.9, 0.9, 0.5], rtol=1e-6)
    found = reference_of(routing, outputs)
    assert (found.examples, dict(found.exits)) == (4, {"a": 2, "b": 0, "a>b": 2})
    assert found.answers == (4, 0, 0)
    assert found.wrong == 2
    assert set(found.counts) == {"a", "a>b"}
    cells = [np.searchsorted(found.edges, x) for x in (0.5 + 1e-6, 0.9)]
    assert [at for at, count in enumerate(found.counts["a"]) if count] == cells
    assert len(found.counts["a"]) == len(found.edges) + 1
    with pytest.raises(ValueError, match="very examples"):
        reference_of(routing, replace(outputs, part="test"))
    with pytest.raises(ValueError, match="every stage"):
        reference_of(routing, outputs.of(("a",)))


def test_answers_alone_have_the_confidence_that_came_with_them(routes: Routes) -> None:
    def outputs(told: list[float]) -> Outputs:
        bare = Stage("a", answers=np.zeros((3, 1), int))
        with_it = Stage("b", answers=np.zeros((3, 1), int), measured={"confidence": np.array(told)})
        return Outputs((bare, with_it), np.zeros(3, int), np.arange(3), "test", 2)

    routing = Routing(routes, np.array([0, 1, 2]), np.zeros(3, int), np.zeros(3), "test")
    np.testing.assert_array_equal(confidences(routing, outputs([0.2, 0.3, 1.0])), [np.nan, 0.3, 1.0])
    assert set(reference_of(routing, outputs([0.2, 0.3, 1.0])).counts) == {"b", "a>b"}
    assert reference_of(routing, outputs([0.2, 0.3, 17.0])).counts == {}


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
    assert names(subject(replace(usual, counts={}, answers=(), wrong=None))) == ["exits", "cost"]


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
    assert risks(lines, subject(usual, certificate(kind="increase"))).tolist() == [0, -1, 1, 0]
    assert risks(lines, subject(usual, certificate(kind="error"))).tolist() == [0, 0, 1, 1, 1]
    assert risks(lines, subject(usual, certificate(kind="error"), "excess")).tolist() == [0, 0, 1, 0]


def test_late_labels_count_for_nothing_but_the_risk(usual: Reference) -> None:
    late = replace(draw(600, np.random.default_rng(13), error=0.6), path=np.full(600, NONE))
    watch = Watch(subject(usual, certificate()), 0.05)
    watch.feed(late)
    assert watch.examples == 0
    assert watch.counts["answers"].sum() == 0
    assert {alarm.monitor for alarm in watch.alarms} == {"error", "risk bound"}


# --- logs


def small_log(usual: Reference, skip: bool = False) -> Log:
    return Log(subject(usual), "log", skip)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_log_is_read_as_it_was_written(suffix: str, usual: Reference, tmp_path: Path) -> None:
    lines = draw(1234, np.random.default_rng(14), labelled=0.1)
    lines = replace(lines, confidence=lines.confidence.astype(np.float32).astype(float))
    path = tmp_path / f"routing{suffix}"
    ids = [f'im,"{i}"' for i in range(len(lines))]
    names = [PATHS[q] for q in lines.path]
    write_log(path, names, lines.confidence, lines.answer, lines.label, ids, lines.largest)
    log = small_log(usual)
    parts = list(read_log(path, log))
    assert sum(map(len, parts)) == 1234
    for name in ("path", "answer", "label", "largest"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(lines, name))
    found = np.concatenate([part.confidence for part in parts]).astype(np.float32)
    assert np.array_equal(found, lines.confidence.astype(np.float32))
    assert log.broken == 0
    if suffix == ".parquet":
        assert sum(map(len, read_log(path, small_log(usual), 1000))) == 234
    with pytest.raises(InputError, match=r"\.csv"):
        write_log(tmp_path / "routing.txt", names, lines.confidence)
    with pytest.raises(ValueError, match="one value an example"):
        write_log(path, names, lines.confidence[1:])
    assert [path] == list(tmp_path.iterdir())


def test_tables_of_pandas_are_read_too(usual: Reference, tmp_path: Path) -> None:
    """There, whole numbers with gaps are floats."""
    frame = pd.DataFrame({"path": ["a", "a>b"], "confidence": [0.5, 1], "label": [np.nan, 2], "answer": [0, 2]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    for name in ("x.csv", "x.parquet"):
        (part,) = read_log(tmp_path / name, small_log(usual))
        assert part.label.tolist() == [NONE, 2]
        assert part.path.tolist() == [0, 2]


GOOD = b"path,confidence,answer,label\na,0.5,1,\n"
BAD_LINES = [
    (b"a,0.5,1\n", "line 3: expected 4 fields, found 3"),
    (b"a>c,0.5,1,\n", "line 3: expected a path of the policy, a, b, a>b, found 'a>c'"),
    (b"a,nan,1,\n", "line 3: expected a confidence from 0 to 1, found 'nan'"),
    (b"a,1.5,1,\n", "confidence from 0 to 1, found '1.5'"),
    (b"a,-0.1,1,\n", "confidence from 0 to 1"),
    (b"a,high,1,\n", "confidence from 0 to 1, found 'high'"),
    (b"a,,1,\n", "line 3: expected the confidence after a, found none"),
    (b"a,0.5,3,\n", "line 3: expected as answer a class from 0 to 2, found '3'"),
    (b"a,0.5,1.5,\n", "answer a class"),
    (b"a,0.5,1,cat\n", "label a class from 0 to 2, found 'cat'"),
    (b"a,0.5,1,-1\n", "label a class"),
    (b"a,0.5,inf,1\n", "answer a class"),
    (b",,1,\n", "line 3: expected a path, or the answer and the label"),
    (b"\xff\xfe,0.5,1,\n", "line 3: expected UTF-8, found byte 0xff"),
    (b'"a,0.5,1,\n', "line 3: expected fields with commas between"),
    (b"x" * (LONGEST + 10) + b"\n", f"line 3: expected at most {LONGEST} bytes"),
]


@pytest.mark.parametrize(("bad", "says"), BAD_LINES, ids=[says for _, says in BAD_LINES])
def test_a_broken_line_is_named_by_its_number(bad: bytes, says: str, usual: Reference, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(GOOD + bad + b"a>b,1,2,2\n")
    with pytest.raises(InputError) as error:
        list(read_log(path, small_log(usual)))
    assert says in str(error.value)
    assert len(str(error.value)) < 300
    log = small_log(usual, skip=True)
    (part,) = read_log(path, log)
    assert part.path.tolist() == [0, 2]
    assert log.broken == 1
    assert says in log.complaints[0]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b'{"path": "a", "confidence": NaN}', "line 2: expected a confidence from 0 to 1, found nan"),
        (b'{"path": "a", "confidence": true}', "confidence from 0 to 1, found True"),
        (b'{"path": ["a"], "confidence": 1}', "a path of the policy"),
        (b'{"path": "a", "confidence": 1, "answer": true}', "as answer a class"),
        (b'{"path": "a", "confidence": 1, "answer": 1' + b"0" * 5000 + b"}", "line 2: expected "),
        (b'{"path": "a"', "line 2: expected a line of JSON"),
        (b"[" * 100_000, "line 2: expected a line of JSON"),
        (b"[1]", "line 2: expected an object, found list"),
    ],
)
def test_a_broken_object_is_named_by_its_number(bad: bytes, says: str, usual: Reference) -> None:
    lines = [b'\xef\xbb\xbf{"path": "a", "confidence": 1, "note": {}}\n', bad + b"\n"]
    with pytest.raises(InputError) as error:
        list(read_log(lines, small_log(usual)))
    assert says in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"id,confidence\n", "expected a column 'path'"),
        (b"path,answer\n", "expected a column 'confidence'"),
        (b"path,path,confidence\n", "expected every column once, found 'path' twice"),
        (b"a,0.5\n", "expected a column 'path'"),
    ],
)
def test_a_header_needs_what_is_watched(header: bytes, says: str, usual: Reference) -> None:
    with pytest.raises(InputError, match=says):
        list(read_log([header, b"a,0.5\n"], small_log(usual, skip=True)))


def test_without_known_confidences_none_is_needed(usual: Reference) -> None:
    log = Log(subject(replace(usual, counts={})), "log")
    (part,) = read_log([b"path\n", b"a\n", b"\n", b"a>b\r\n"], log)
    assert part.path.tolist() == [0, 2]
    assert np.isnan(part.confidence).all()


def test_a_label_may_come_later(usual: Reference) -> None:
    (part,) = read_log([b"path,confidence,answer,label\n", b"a,0.5,1,\n", b",,1,2\n"], small_log(usual))
    assert (part.path.tolist(), part.label.tolist(), part.answer.tolist()) == ([0, NONE], [NONE, 2], [1, 1])


def test_what_is_no_log(usual: Reference, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "x.csv").write_bytes(b"")
    with pytest.raises(InputError, match="parquet file"):
        list(read_log(tmp_path / "x.parquet", small_log(usual)))
    pd.DataFrame({"path": ["a", "z"], "confidence": [0.5, 0.5]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(InputError, match="row 2: expected a path"):
        list(read_log(tmp_path / "y.parquet", small_log(usual)))
    with pytest.raises(InputError, match="can be read"):
        list(read_log(tmp_path / "none.csv", small_log(usual)))
    assert list(read_log(tmp_path / "x.csv", small_log(usual))) == []


def test_lines_are_lines_however_bytes_come() -> None:
    text = b"ab\n\nc\xc3\xa9\n" + b"x" * 10 + b"\nend"
    expected = [b"ab\n", b"\n", b"c\xc3\xa9\n", b"x" * 10 + b"\n", b"end"]
    for size in (1, 2, 3, 7, 100):
        lines = Lines(text[at : at + size] for at in range(0, len(text), size))
        found, taken = [], 0
        for line in lines:
            assert line is not None
            found.append(line)
            taken += len(line)
            assert lines.taken == taken
        assert found == expected
    assert list(Lines([b"est\na", None, b"\n"], within=True)) == [None, b"a\n"]
    long = Lines([b"x" * LONGEST, b"yy", b"zz\nnext\n"])
    assert [len(line or b"") for line in long] == [LONGEST + 2, 5]
    assert long.taken == LONGEST + 2 + 8


def test_quoted_fields_are_read(usual: Reference) -> None:
    row = ['say "a, b"', "a>b", "0.25"]
    text = [",".join(["id", "path", "confidence"]).encode() + b"\n"]
    with_quotes = ",".join('"' + one.replace('"', '""') + '"' for one in row)
    assert next(csv.reader([with_quotes])) == row
    (part,) = read_log([*text, with_quotes.encode() + b"\n"], small_log(usual))
    assert (part.path.tolist(), part.confidence.tolist()) == ([2], [0.25])
