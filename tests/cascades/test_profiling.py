"""Measuring under a clock that the test moves, so that every result is known; and a few tensors that are counted."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from offramp.cascades.measuring.latency import (
    BESIDE,
    CLOCK,
    MEGABYTE,
    MOST_REPEATS,
    NETWORK,
    OF_EXITS,
    UNSEEN,
    WHAT,
    Bench,
    Cell,
    Counter,
    Task,
    Timer,
    Timing,
    cpu_counter,
    device_name,
    energy_of,
    fit_line,
    fit_lines,
    measure,
    median_ranks,
    peak_memory,
    profile_stages,
    timer_for,
    warm_up,
)
from offramp.features.errors import InputError

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

MS = 1_000_000
A, B = Cell("a", NETWORK, 1), Cell("b", NETWORK, 1)


class Clock:
    """Nanoseconds, moved by the works."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def task(self, cell: Cell, ms: Callable[[], float] | float, seconds: float = 1.0) -> Task:
        """A task whose work takes ``ms``, known or asked for anew each time."""

        def work() -> None:
            self.now += round(MS * (ms() if callable(ms) else ms))

        return Task(cell, lambda: work, seconds)


def timing(*blocks: Sequence[float]) -> Timing:
    return Timing(A, np.array(blocks, float))


# --- order statistics


@pytest.mark.parametrize("n", [*range(1, 40), 101, 400])
def test_ranks_hold_95_percent_and_no_narrower_pair_does(n: int) -> None:
    def chance(first: int) -> float:
        """That the median lies between the values at ``first`` and at as many from the end."""
        return 1 - 2 * sum(comb(n, k) for k in range(first + 1)) / 2**n

    first, last = median_ranks(n)
    assert first + last == n - 1
    if n < 6:
        assert first == 0
    else:
        assert chance(first) >= 0.95
        assert chance(first + 1) < 0.95


def test_medians_and_quartiles_by_hand() -> None:
    found = timing([1, 9], [3, 5], [7, 2])
    assert found.repeats == 6
    assert found.median == 4
    assert found.quartiles == (2.25, 6.5)


def test_the_interval_is_that_of_the_blocks_where_they_drift() -> None:
    """A thousand repeats would be sure of their median; ten blocks that differ are not."""
    drifting = timing(*([float(i)] * 100 for i in range(1, 11)))
    assert drifting.interval == (2, 9)
    mixed = timing(*(list(range(1, 101)) for _ in range(10)))
    low, high = mixed.interval
    assert 45 < low < 50 < high < 56


def test_the_interval_is_that_of_the_repeats_where_blocks_are_alike_by_chance() -> None:
    found = timing(*([1.0, 2.0, 2.0, 2.0, 6.0] for _ in range(10)))
    assert found.interval == (1.96, 2.04)
    found = timing(*([1.0, 3.0] for _ in range(10)))
    assert found.interval == (1, 3)


def test_no_interval_is_narrower_than_two_processes_or_the_clock_differ() -> None:
    assert timing(*[[50.0]] * 10).interval == pytest.approx((50 * (1 - UNSEEN), 50 * (1 + UNSEEN)))
    assert timing(*[[0.0005]] * 10).interval == pytest.approx((0.0005 - CLOCK, 0.0005 + CLOCK))
    assert timing(*[[0.0]] * 10).interval == (0, CLOCK)


# --- measuring


def test_what_takes_a_known_time_is_measured_so() -> None:
    clock = Clock()
    found = measure([clock.task(A, 2.0), clock.task(B, 7.0, seconds=0.5)], Timer(clock), blocks=10)
    assert list(found) == [A, B]
    assert found[A].times.shape == (10, 50)  # a second is ten visits of 100 ms
    assert found[B].times.shape == (10, 7)
    assert (found[A].times == 2).all()
    assert (found[B].times == 7).all()


def test_waiting_for_the_device_is_timed() -> None:
    clock, queued = Clock(), []

    def wait() -> None:
        clock.now += sum(queued)
        queued.clear()

    task = Task(A, lambda: lambda: queued.append(3 * MS), 0.1)
    assert measure([task], Timer(clock, wait))[A].median == 3


def test_a_work_that_takes_no_time_or_all_of_it() -> None:
    clock = Clock()
    found = measure([clock.task(A, 0.0), clock.task(B, 60_000.0)], Timer(clock), blocks=6)
    assert found[A].times.shape == (6, MOST_REPEATS)
    assert found[B].times.shape == (6, 1)


def test_warm_when_it_gets_no_faster() -> None:
    clock = Clock()
    times = iter([1000.0, 90, 90, 90, 60, 60, 60, 50, 50, 50, 49, 49, 49, 1, 1, 1])
    work = clock.task(A, lambda: next(times)).make()
    assert warm_up(work, Timer(clock), seconds=100) == 49  # 49 is within 5 % of 50, and the last looked at
    assert next(times) == 1


def test_warming_up_ends_with_its_time() -> None:
    clock = Clock()
    each = iter(float(2**i) for i in range(20, 0, -1))  # ever faster
    spent = warm_up(clock.task(A, lambda: next(each)).make(), Timer(clock), seconds=3 * 2**18 / 1000)
    assert spent == (2**19 + 2**18) / 2 or spent in (2.0**19, 2.0**18)
    assert clock.now <= MS * (2**20 + 2**19 + 2**18)


def test_cold_runs_count_for_nothing() -> None:
    """Neither those at the beginning nor the first one of a visit."""
    clock = Clock()

    def make() -> Callable[[], None]:
        times = iter([500.0, *[1.0] * 10_000])

        def work() -> None:
            clock.now += round(MS * next(times))

        return work

    assert (measure([Task(A, make, 0.1)], Timer(clock))[A].times == 1).all()


def test_every_block_visits_every_cell_in_an_order_of_its_own() -> None:
    clock, visits = Clock(), []
    cells = [Cell("s", NETWORK, batch) for batch in range(6)]

    def make(cell: Cell) -> Callable[[], None]:
        visits.append(cell)
        return clock.task(cell, 1.0).make()

    def order(seed: int) -> list[list[Cell]]:
        visits.clear()
        tasks = [Task(cell, lambda cell=cell: make(cell), 0.01) for cell in cells]  # type: ignore[misc]
        measure(tasks, Timer(clock), blocks=8, seed=seed)
        assert visits[:6] == cells  # warming up
        return [visits[i : i + 6] for i in range(6, len(visits), 6)]

    blocks = order(0)
    assert len(blocks) == 8
    assert all(sorted(block) == cells for block in blocks)
    assert len({tuple(block) for block in blocks}) > 4
    assert order(0) == blocks != order(1)


def test_drift_hits_all_alike_and_shows_in_the_interval() -> None:
    """The machine gets three times slower in mid-run."""
    clock = Clock()

    def slow() -> float:
        return 3.0 if clock.now > 250 * MS else 1.0

    found = measure([clock.task(A, lambda: 1 * slow(), 0.2), clock.task(B, lambda: 2 * slow(), 0.2)], Timer(clock))
    a, b = np.median(found[A].times, axis=1), np.median(found[B].times, axis=1)
    assert {1.0, 3.0} <= set(a.tolist())
    assert (b / a == 2).sum() >= 9  # a block may be half and half
    assert found[A].interval == (1 - UNSEEN, 3)  # the median, 1, and all above it


def test_no_garbage_is_collected_meanwhile_and_again_afterwards() -> None:
    clock, seen = Clock(), set()

    def work() -> None:
        clock.now += MS
        seen.add(gc.isenabled())

    assert gc.isenabled()
    measure([Task(A, lambda: work, 0.01)], Timer(clock))
    assert seen == {False}
    assert gc.isenabled()

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure([Task(A, lambda: fail, 0.01)], Timer(clock))
    assert gc.isenabled()


def test_steps_are_as_many_as_said() -> None:
    clock, told = Clock(), []
    tasks = [clock.task(A, 1.0, 0.01), clock.task(B, 1.0, 0.01)]
    measure(tasks, Timer(clock), blocks=3, step=lambda text, total: told.append((text, total)))
    assert len(told) == told[0][1] == 8
    assert told[-1][0] == "block 3 of 3"


def noisy_run(seed: int, times: float = 1.0) -> dict[Cell, Timing]:
    """A machine whose speed wanders by a few percent, with spikes."""
    rng, clock, speed = np.random.default_rng(seed), Clock(), [1.0]

    def taking(ms: float) -> Callable[[], float]:
        def each() -> float:
            speed[0] += 0.003 * rng.normal() - 0.02 * (speed[0] - 1)
            return ms * times * speed[0] * (1 + 0.05 * rng.exponential()) * (3 if rng.random() < 0.01 else 1)

        return each

    tasks = [
        clock.task(Cell(stage, NETWORK, 1), taking(ms), 0.2) for stage, ms in (("a", 1.0), ("b", 5.0), ("c", 19.0))
    ]
    return measure(tasks, Timer(clock), seed=seed)


def apart(one: dict[Cell, Timing], other: dict[Cell, Timing]) -> int:
    return sum(
        one[cell].interval[0] > other[cell].interval[1] or other[cell].interval[0] > one[cell].interval[1]
        for cell in one
    )


def test_two_profiles_of_one_machine_agree_within_their_intervals() -> None:
    runs = [noisy_run(seed) for seed in range(10)]
    pairs = [apart(one, other) for i, one in enumerate(runs) for other in runs[:i]]
    assert sum(pairs) <= 0.02 * 3 * len(pairs)


def test_two_profiles_of_machines_of_which_one_is_slower_do_not() -> None:
    assert apart(noisy_run(0), noisy_run(1, times=1.3)) == 3


# --- the line


def test_a_line_through_points_that_lie_on_one() -> None:
    line = fit_line([1, 2, 8, 64], [5.5, 6.0, 9.0, 37.0], [0.1, 0.5, 0.2, 1.0])
    assert (line.overhead, line.slope) == pytest.approx((5, 0.5))
    assert line.misfit == pytest.approx(0, abs=1e-12)
    assert line.at(16) == pytest.approx(13)


def test_least_squares_by_hand() -> None:
    """Equal weights, centre 2: slope ((-1)(3) + 0 + (1)(4)) / 2 = 0.5, height 11/3, so the line is 3.17, 3.67, 4.17."""
    line = fit_line([1, 2, 3], [3.0, 4.0, 4.0], [10.0, 10.0, 10.0])
    assert (line.overhead, line.slope) == pytest.approx((11 / 3 - 1, 0.5))
    assert line.misfit == pytest.approx(1 / 3 / 4)
    # errors of 10 say that the misfit is none: sqrt(100 / 2), and sqrt(100 (1/3 + 4/2))
    assert line.slope_error == pytest.approx(np.sqrt(50))
    assert line.overhead_error == pytest.approx(np.sqrt(700 / 3))
    # errors of 0.1 grow by the root of chi squared, (1/36 + 4/36 + 1/36) / 0.01, over one degree of freedom
    sharp = fit_line([1, 2, 3], [3.0, 4.0, 4.0], [0.1, 0.1, 0.1])
    assert sharp.slope_error == pytest.approx(np.sqrt(0.01 / 2) * np.sqrt(1 / 6 / 0.01))


@pytest.mark.parametrize("seed", range(20))
def test_the_line_is_the_best_one_without_a_negative_part(seed: int) -> None:
    from scipy.optimize import nnls

    rng = np.random.default_rng(seed)
    batches = sorted(rng.choice(100, 5, replace=False) + 1)
    times, errors = rng.uniform(1, 10, 5), rng.uniform(0.1, 2, 5)
    if seed % 2:
        times = np.sort(times) ** 3
    line = fit_line(batches, times.tolist(), errors.tolist())
    matrix = np.column_stack([np.ones(5), batches]) / errors[:, None]
    best, _ = nnls(matrix, times / errors)
    assert (line.overhead, line.slope) == pytest.approx(tuple(best), abs=1e-9)
    free = np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)))
    chi = np.square(matrix @ best - times / errors).sum()
    assert (line.overhead_error, line.slope_error) == pytest.approx(tuple(free * np.sqrt(max(1, chi / 3))))


def test_lines_have_no_negative_parts() -> None:
    steep, falling = fit_line([1, 2, 4], [1.0, 4.0, 16.0], [1.0] * 3), fit_line([1, 2, 4], [3.0, 2.0, 1.0], [1.0] * 3)
    assert steep.overhead == 0 < steep.slope
    assert falling.slope == 0
    assert falling.overhead == pytest.approx(2)


def test_one_batch_size_tells_nothing_of_the_overhead() -> None:
    line = fit_line([8], [4.0], [0.4])
    assert (line.overhead, line.slope, line.overhead_error) == (0, 0.5, None)
    assert line.slope_error == pytest.approx(0.05)


def test_weights_come_from_the_intervals() -> None:
    """A median that nobody is sure of bends no line."""
    sure = {batch: timing(*[[10.0 + batch]] * 10).times for batch in (1, 2, 4)}
    vague = np.linspace(1, 400, 10)[:, None]
    found = {Cell("a", NETWORK, b): Timing(Cell("a", NETWORK, b), t) for b, t in (sure | {8: vague}).items()}
    line = fit_lines(found)["a", NETWORK]
    assert (line.overhead, line.slope) == pytest.approx((10, 1), rel=0.02)


# --- energy


def zone(folder: Path, number: str, name: str, energy: int, limit: int = 1000) -> Path:
    here = folder / f"intel-rapl:{number}"
    here.mkdir(parents=True)
    for file, content in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", limit)):
        (here / file).write_text(f"{content}\n")
    return here


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "0", "package-0", 100), zone(tmp_path, "1", "package-1", 950, limit=2000)
    part, whole = zone(tmp_path, "0:0", "core", 7), zone(tmp_path, "2", "psys", 9)
    counter = cpu_counter(tmp_path)
    assert isinstance(counter, Counter)
    assert counter.read() == (100, 950)
    before = counter.read()
    for here, energy in ((first, 400), (second, 1000), (part, 900), (whole, 900)):
        (here / "energy_uj").write_text(f"{energy}\n")
    assert counter.between(before, counter.read()) == pytest.approx(350e-6)


def test_a_counter_that_begins_again_is_not_negative(tmp_path: Path) -> None:
    here = zone(tmp_path, "0", "package-0", 990, limit=1000)
    counter = cpu_counter(tmp_path)
    assert isinstance(counter, Counter)
    before = counter.read()
    (here / "energy_uj").write_text("15\n")
    assert counter.between(before, counter.read()) == pytest.approx(25e-6)


def test_why_there_is_no_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_counter(tmp_path / "none") == "the system shows no energy counter of the CPU"
    zone(tmp_path / "part", "0", "psys", 1)
    assert cpu_counter(tmp_path / "part") == "the system shows no energy counter of the CPU"
    (zone(tmp_path / "text", "0", "package-0", 1) / "energy_uj").write_text("lots")
    assert "can't be read" in str(cpu_counter(tmp_path / "text"))
    zone(tmp_path / "shut", "0", "package-0", 1)
    plain = Path.read_text

    def read_text(path: Path, *how: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return plain(path, *how)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert cpu_counter(tmp_path / "shut") == "the CPU's energy counter may not be read by this user"


def test_energy_of_one_run() -> None:
    """A machine that draws 20 W works for 100 ms a time, for a second."""
    clock, runs = Clock(), []

    def work() -> None:
        clock.now += 100 * MS
        runs.append(clock.now)

    counter = Counter(lambda: (clock.now // 50,), 1e-6, (0,))
    assert energy_of(work, counter, Timer(clock), 1.0) == pytest.approx(2.0)
    assert len(runs) == 1 + 10


# --- networks

torch = pytest.importorskip("torch", reason="networks need torch")


def test_peak_memory_is_what_is_there_at_once() -> None:
    device = torch.device("cpu")

    def work() -> Any:
        x = torch.zeros(1000)
        y = x + x  # 8000 bytes
        del x
        z = y + y  # still
        del y
        return z.sum()

    assert peak_memory(work, device) == 8000
    assert peak_memory(lambda: torch.zeros(500) + torch.zeros(500), device) == 6000
    assert peak_memory(lambda: None, device) is None


class Tiny(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Logits of 3 classes from the mean colour; remembers how many images it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(3, 3)
        self.seen: list[tuple[int, ...]] = []
        self.error: Exception | None = None

    def forward(self, x: Any) -> Any:
        self.seen.append(tuple(x.shape))
        if self.error:
            raise self.error
        return self.last(x.mean((2, 3)))


def tiny_stage(name: str) -> Any:
    from offramp.cascades.models.preprocessing import Preprocessing

    how = Preprocessing(None, (4, 5), "bilinear", (0.5,) * 3, (0.5,) * 3)
    return SimpleNamespace(name=name, spec=name, module=Tiny().eval(), preprocessing=how, parameters=12, place=None)


class Ticks:
    """A clock that moves by a millisecond whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += MS
        return self.now


def profiled(tmp_path: Path, stages: Sequence[Any], **more: Any) -> Any:
    pixels = {stages[0].preprocessing.pixels_key: torch.zeros(4, 4, 5, 3, dtype=torch.uint8)}
    bench = Bench(torch.device("cpu"), (1, 4), seconds=0.06, blocks=6, timer=Timer(Ticks()), rapl=tmp_path)
    return profile_stages(stages, pixels, bench, **more)


def test_every_stage_batch_and_thing_around_it_is_measured(tmp_path: Path) -> None:
    stages, policy = [tiny_stage("a"), tiny_stage("b")], []

    def make(batch: int) -> Callable[[], None]:
        return lambda: policy.append(batch)

    found = profiled(tmp_path, stages, extra={"policy": {"a": make}})
    own = [Cell(s, what, b) for s in "ab" for what in WHAT if what not in ("policy", *OF_EXITS) for b in (1, 4)]
    assert sorted(found.timings) == sorted([*own, Cell("a", "policy", 1), Cell("a", "policy", 4)])
    assert all((each.times == 1).all() for each in found.timings.values())
    assert found.timings[Cell("a", NETWORK, 4)].repeats == 60
    assert found.timings[Cell("a", "gather", 4)].repeats == 60 * BESIDE
    assert set(policy) == {1, 4}
    for stage in stages:
        assert set(stage.module.seen) == {(1, 3, 4, 5), (4, 3, 4, 5)}
    assert (found.energy, found.energy_note) == ({}, "the system shows no energy counter of the CPU")


def test_memory_holds_weights_pixels_and_what_a_batch_takes(tmp_path: Path) -> None:
    found = profiled(tmp_path, [tiny_stage("a")])
    assert set(found.memory) == {Cell("a", NETWORK, 1), Cell("a", NETWORK, 4)}
    weights, pixels, floats = 4 * 12, 4 * 60, 4 * 4 * 60
    bare = MEGABYTE * found.memory[Cell("a", NETWORK, 4)]
    assert weights + pixels + floats <= bare <= weights + pixels + 2 * floats


def test_energy_is_read_where_there_is_a_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = zone(tmp_path, "0", "package-0", 0, limit=10**9)
    monkeypatch.setattr("offramp.cascades.measuring.latency.ENERGY_SECONDS", 0.08)
    stage = tiny_stage("a")
    forward = stage.module.forward

    def warm(x: Any) -> Any:
        file = here / "energy_uj"
        file.write_text(str(int(file.read_text()) + 2_000 * len(x)))  # 2 mJ an image
        return forward(x)

    monkeypatch.setattr(stage.module, "forward", warm)
    found = profiled(tmp_path, [stage])
    assert found.energy == pytest.approx({Cell("a", NETWORK, 1): 0.002, Cell("a", NETWORK, 4): 0.008})
    assert found.energy_note == ""


def test_too_large_a_batch_is_the_users_matter_and_a_bug_is_not(tmp_path: Path) -> None:
    stage = tiny_stage("a")
    stage.module.error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes\nframe #0")
    with pytest.raises(InputError, match=r"--batches: expected batches that fit the memory") as caught:
        profiled(tmp_path, [stage])
    assert "frame" not in str(caught.value)
    stage.module.error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
    with pytest.raises(InputError, match=r"--batches: expected batches that fit the device's memory"):
        profiled(tmp_path, [stage])
    stage.module.error = RuntimeError("shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes"):
        profiled(tmp_path, [stage])


def test_what_torch_cannot_compile_is_said_in_a_line(tmp_path: Path) -> None:
    from torch._dynamo.exc import Unsupported

    stage = tiny_stage("a")
    stage.module.error = Unsupported("no way\nbecause of this")
    with pytest.raises(InputError, match=r"--compile: expected networks, and a compiler, .*no way$"):
        profiled(tmp_path, [stage])


def test_the_device_has_a_name(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Best CPU (R) 5000 \nmodel name\t: Other\n")
    assert device_name(cpu, tmp_path / "cpuinfo") == "Best CPU (R) 5000"
    assert device_name(cpu, tmp_path / "none")
    assert timer_for(cpu).once(lambda: None) >= 0


def test_a_gpu_is_waited_for(tmp_path: Path) -> None:
    """Needs one: a matrix product is queued at once, and done much later."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    device = torch.device("cuda")
    x = torch.ones(8192, 8192, device=device)
    work: Callable[[], Any] = lambda: x @ x  # noqa: E731
    timer = timer_for(device)
    timer.once(work)
    assert timer.once(work) > 0.1  # 1.1 T multiply-adds
    assert (peak_memory(work, device) or 0) >= x.nbytes
    stage = tiny_stage("a")
    pixels = {stage.preprocessing.pixels_key: torch.zeros(4, 4, 5, 3, dtype=torch.uint8)}
    found = profile_stages([stage], pixels, Bench(device, (1, 4), seconds=0.06))
    assert all(each.median > 0 for each in found.timings.values())
    assert found.energy or found.energy_note
    assert set(found.memory) == {Cell("a", NETWORK, 1), Cell("a", NETWORK, 4)}
