"""Networks turned into how long a batch takes them, how sure that is, and what it takes in memory and energy."""

from __future__ import annotations

import gc
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.features.errors import InputError
from offramp.features.outputs import Floats, Ints

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from offramp.cascades.models.zoo import StageModel
    from offramp.cascades.runtime.networks import Network

BLOCKS = 10
"""Visits to each cell, spread over the run; from six on, order statistics of as many medians hold 95 %."""

LEVEL = 0.95
UNSEEN = 0.02
"""Share of a median that two processes may differ by however long each runs, since their memory lies elsewhere: no
interval is narrower to either side."""

CLOCK = 1e-4
"""Milliseconds that reading the clock may take more or less of: no interval is narrower to either side."""

MOST_REPEATS = 1000
"""Of one cell in one block; more would only take memory."""

WINDOW = 3
"""Runs whose median is compared with that of as many before, to see whether a cell is warm."""

STEADY = 0.05
"""A cell is warm when a window is faster than the one before by no more than this share."""

BESIDE = 0.1
"""Share of a network's measuring time that each of the small things around it gets."""

ENERGY_SECONDS = 0.5
"""Counters of GPUs move about every 20 to 100 ms, so energy is read over at least this long."""

MEGABYTE = 1e6
NETWORK = "network"
WHAT = {
    NETWORK: "pixels on the host to logits on the device: transfer, normalising and network, and the wait for it",
    "trunk": "for an exit: from the exit before it, or pixels on the host, to where its head begins",
    "head": "for an exit: from there to logits",
    "transfer": "pixels from the host to the device (part of network)",
    "normalise": "pixels on the device to what the network is given (part of network)",
    "policy": "features and decision, on logits that are there",
    "decision": "actions and answers to the host, and which rows go on",
    "gather": "half of the batch's inputs put together for the next stage",
}
"""What is timed; every row is one batch."""

OF_EXITS = ("trunk", "head")
"""What is timed of exits only."""

Work = Callable[[], object]
Overheads = Mapping[str, Callable[[int], Work]]
"""For each stage: the size of a batch -> something to run, whose time is wanted."""

Step = Callable[[str, int], None]
"""Told what is being done now, and how many steps there are in all."""


@dataclass(frozen=True, order=True)
class Cell:
    """One thing that is timed: ``what`` (a key of ``WHAT``) of a stage at a batch size."""

    stage: str
    what: str
    batch: int


@dataclass(frozen=True)
class Task:
    """A cell, how to get ready for it, and the time (s) to spend on it; ``make`` is called anew in every block, so
    that no cell owes its time to where its memory happened to lie."""

    cell: Cell
    make: Callable[[], Work]
    seconds: float


@dataclass(frozen=True)
class Timing:
    """Times (ms) of one cell, (blocks, repeats)."""

    cell: Cell
    times: Floats

    @property
    def repeats(self) -> int:
        """How many there are in all."""
        return self.times.size

    @property
    def median(self) -> float:
        """Of all repeats, ms."""
        return float(np.median(self.times))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of all repeats, ms."""
        low, high = np.quantile(self.times, (0.25, 0.75))
        return float(low), float(high)

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % interval of the median, ms, that holds for another run on this machine too.

        By order statistics, of all repeats and of the blocks' medians: repeats of one block are alike, and what
        drifts between blocks shows only in the latter. The wider end counts, and at least ``UNSEEN`` and ``CLOCK``.
        """
        room = max(UNSEEN * self.median, CLOCK)
        ends = [(self.median - room, self.median + room)]
        for values in (np.sort(self.times, axis=None), np.sort(np.median(self.times, axis=1))):
            first, last = median_ranks(len(values))
            ends.append((float(values[first]), float(values[last])))
        return max(min(low for low, _ in ends), 0.0), max(high for _, high in ends)


def median_ranks(n: int, level: float = LEVEL) -> tuple[int, int]:
    """Places, from 0, of the two of n sorted values between which the median lies with a chance of ``level``.

    Holds for independent values of any distribution, each being below the median as often as a coin falls. Fewer
    than 6 values can't be as sure as 95 %: the outermost are taken.

    >>> median_ranks(10), median_ranks(100), median_ranks(3)
    ((1, 8), (39, 60), (0, 2))
    """
    from scipy.stats import binom

    first = max(int(binom.ppf((1 - level) / 2, n, 0.5)) - 1, 0)
    return first, n - 1 - first


# --- the clock


def _at_once() -> None:
    """The wait for a device that doesn't work on its own."""


@dataclass(frozen=True)
class Timer:
    """A clock (ns), and how to wait until the device has done all that it was given."""

    clock: Callable[[], int] = time.perf_counter_ns
    wait: Callable[[], None] = _at_once

    def once(self, work: Work) -> float:
        """Milliseconds until the work is really done; the wait for the device is part of it, as for any caller."""
        self.wait()
        start = self.clock()
        work()
        self.wait()
        return (self.clock() - start) / 1e6


def timer_for(device: torch.device) -> Timer:
    """The clock, synchronised with ``device``."""
    if device.type != "cuda":
        return Timer()
    import torch

    return Timer(wait=lambda: torch.cuda.synchronize(device))


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection within, which would fall on whoever is timed at that moment."""
    there = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if there:
            gc.enable()


def warm_up(work: Work, timer: Timer, seconds: float) -> float:
    """Run until it gets no faster, or for ``seconds``; the median (ms) of the last few runs.

    The first run, which may compile or choose among algorithms, counts for nothing.
    """
    work()
    before, spent = np.inf, 0.0
    while True:
        window: list[float] = []
        while len(window) < WINDOW and (not window or spent < 1e3 * seconds):
            window.append(timer.once(work))
            spent += window[-1]
        now = float(np.median(window))
        if now >= (1 - STEADY) * before or spent >= 1e3 * seconds:
            return now
        before = now


def measure(
    tasks: Sequence[Task], timer: Timer | None = None, blocks: int = BLOCKS, seed: int = 0, step: Step | None = None
) -> dict[Cell, Timing]:
    """Time every task: warmed up, then visited in ``blocks`` rounds, each in a random order of its own.

    So slow drift of the machine hits all alike, and shows between a cell's blocks. A visit begins with a run that is
    not timed, unless one run alone takes the visit's time. Cells have equally many repeats in all their blocks.
    """
    timer = timer or Timer()
    say = step or _silent
    rng = np.random.default_rng(seed)
    total = len(tasks) * (blocks + 1)
    repeats = []
    times: list[list[list[float]]] = [[] for _ in tasks]
    with uncollected():
        for task in tasks:
            say("warming up", total)
            visit = 1e3 * task.seconds / blocks
            each = max(warm_up(task.make(), timer, task.seconds), 1e-6)
            repeats.append(int(min(max(visit / each, 1), MOST_REPEATS)))
        for block in range(blocks):
            for i in rng.permutation(len(tasks)).tolist():
                say(f"block {block + 1} of {blocks}", total)
                work = tasks[i].make()
                if repeats[i] > 1:
                    work()
                times[i].append([timer.once(work) for _ in range(repeats[i])])
    return {task.cell: Timing(task.cell, np.array(each)) for task, each in zip(tasks, times, strict=True)}


def _silent(text: str, total: int) -> None:
    """The step of who doesn't watch."""


# --- the line


@dataclass(frozen=True)
class Line:
    """t(b) = overhead + slope * b, ms, with standard errors (None: can't be told from one batch size).

    ``misfit``: the largest distance of a measured median from the line, as a share of that median.
    """

    overhead: float
    slope: float
    overhead_error: float | None
    slope_error: float | None
    misfit: float

    def at(self, batch: float) -> float:
        """Milliseconds of a batch."""
        return self.overhead + self.slope * batch


def fit_line(batches: Sequence[int], medians: Sequence[float], errors: Sequence[float]) -> Line:
    """Weighted least squares with neither part below zero; ``errors`` (n,) are the medians' standard errors, ms.

    Where points lie farther from the line than their errors say, which a network's time does, being no straight
    line, the errors of the line grow by as much.

    >>> round(fit_line([1, 2, 4], [3.0, 5.0, 9.0], [0.1, 0.1, 0.1]).at(8), 9)
    17.0
    """
    b, t = np.asarray(batches, float), np.asarray(medians, float)
    weight = 1 / np.square(np.maximum(errors, np.finfo(float).tiny ** 0.25))
    if len(set(batches)) == 1:
        slope = float(np.average(t / b, weights=weight))
        return _line(0.0, slope, None, float(np.sqrt(1 / (weight @ np.square(b)))), b, t)
    centre = float(np.average(b, weights=weight))
    spread = float(weight @ np.square(b - centre))
    slope = float(weight @ ((b - centre) * t)) / spread
    overhead = float(np.average(t, weights=weight)) - slope * centre
    if overhead < 0:
        overhead, slope = 0.0, float(weight @ (b * t) / (weight @ np.square(b)))
    elif slope < 0:
        overhead, slope = float(np.average(t, weights=weight)), 0.0
    over = float(weight @ np.square(t - overhead - slope * b)) / max(len(b) - 2, 1)
    scale = np.sqrt(max(over, 1.0))
    overhead_error = float(scale * np.sqrt(1 / weight.sum() + centre**2 / spread))
    return _line(overhead, slope, overhead_error, float(scale / np.sqrt(spread)), b, t)


def _line(
    overhead: float, slope: float, overhead_error: float | None, slope_error: float, b: Floats, t: Floats
) -> Line:
    misfit = float(np.max(abs(overhead + slope * b - t) / np.maximum(t, np.finfo(float).tiny)))
    return Line(overhead, slope, overhead_error, slope_error, misfit)


def fit_lines(timings: Mapping[Cell, Timing]) -> dict[tuple[str, str], Line]:
    """A line for each stage and what is timed of it."""
    from scipy.stats import norm

    width = 2 * norm.ppf((1 + LEVEL) / 2)
    groups: dict[tuple[str, str], list[Timing]] = {}
    for timing in timings.values():
        groups.setdefault((timing.cell.stage, timing.cell.what), []).append(timing)
    return {
        key: fit_line(
            [each.cell.batch for each in group],
            [each.median for each in group],
            [(each.interval[1] - each.interval[0]) / width for each in group],
        )
        for key, group in groups.items()
    }


# --- energy


@dataclass(frozen=True)
class Counter:
    """Energy counters that only rise: ``read`` gives one number each, ``joules`` a count is worth; a counter begins
    again behind its ``limits`` (0: never)."""

    read: Callable[[], tuple[int, ...]]
    joules: float
    limits: tuple[int, ...]

    def between(self, before: Sequence[int], after: Sequence[int]) -> float:
        """Joules between two readings; a counter that fell began again once.

        >>> Counter(lambda: (0, 0), 0.5, (1000, 0)).between((900, 5), (100, 6))
        100.5
        """
        counts = (b - a + (limit if b < a else 0) for a, b, limit in zip(before, after, self.limits, strict=True))
        return self.joules * sum(counts)


RAPL = Path("/sys/class/powercap")


def cpu_counter(folder: Path = RAPL) -> Counter | str:
    """The energy of all processor packages, as Linux shows it below ``folder``; or why there is none to be had.

    Parts of a package (cores, memory beside it) are not added to it.
    """
    zones = sorted(path for path in folder.glob("intel-rapl:*") if re.fullmatch(r"intel-rapl:\d+", path.name))
    try:
        zones = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        if not zones:
            return "the system shows no energy counter of the CPU"
        limits = tuple(int((zone / "max_energy_range_uj").read_text()) for zone in zones)

        def read() -> tuple[int, ...]:
            return tuple(int((zone / "energy_uj").read_text()) for zone in zones)

        read()
    except PermissionError:
        return "the CPU's energy counter may not be read by this user"
    except (OSError, ValueError) as error:
        return f"the CPU's energy counter can't be read ({error})"
    return Counter(read, 1e-6, limits)


def gpu_counter(device: torch.device) -> Counter | str:
    """The energy of the whole GPU since its driver was loaded; or why it can't be had."""
    import torch

    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return "the GPU's energy counter is read by pynvml, which is not installed (nvidia-ml-py)"
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")

        def read() -> tuple[int, ...]:
            return (int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),)

        read()
    except nvml.NVMLError as error:
        return f"the GPU's energy counter can't be read ({error})"
    return Counter(read, 1e-3, (0,))


def energy_of(work: Work, counter: Counter, timer: Timer, seconds: float) -> float:
    """Joules of one run, everything that the device used meanwhile included, over ``seconds`` of running."""
    work()
    timer.wait()
    runs, start, before = 0, timer.clock(), counter.read()
    while not runs or timer.clock() - start < 1e9 * seconds:
        work()
        timer.wait()
        runs += 1
    return counter.between(before, counter.read()) / runs


# --- memory


def peak_memory(work: Work, device: torch.device) -> int | None:
    """Bytes of tensors that are there at most during one run, beyond those there before; None if none are seen.

    From torch's allocator: what libraries take for themselves beside it doesn't show.
    """
    import torch

    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return _peak_on_cpu(work)


def _peak_on_cpu(work: Work) -> int | None:
    """Adds up what torch's profiler says was allocated and freed, in order."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        watched.export_chrome_trace(str(path))
        found = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    on_cpu = [event for event in found if event["args"]["Device Type"] == 0]
    now = np.cumsum([event["args"]["Bytes"] for event in sorted(on_cpu, key=lambda event: event["ts"])])
    return int(now.max()) if len(now) else None


# --- networks


@dataclass(frozen=True)
class Profile:
    """What was measured: times; peak memory (MB) and energy (J) of a batch for the cells that are a network.

    Memory is weights, inputs and what a batch takes besides. ``energy_note`` says why energy is missing.
    """

    timings: Mapping[Cell, Timing]
    memory: Mapping[Cell, float]
    energy: Mapping[Cell, float]
    energy_note: str


@dataclass(frozen=True)
class Bench:
    """Where and how networks are measured; ``seconds`` are spent on each network and batch size."""

    device: torch.device
    batches: tuple[int, ...]
    dtype: str = "float32"
    compiled: bool = False
    seconds: float = 1.0
    blocks: int = BLOCKS
    seed: int = 0
    timer: Timer | None = None
    rapl: Path = field(default=RAPL)


def profile_stages(
    models: Sequence[StageModel],
    pixels: Mapping[Any, Tensor],
    bench: Bench,
    extra: Mapping[str, Overheads] | None = None,
    step: Step | None = None,
) -> Profile:
    """Profile the stages as ``cascades.runtime.run`` runs them.

    ``pixels``: for each crop (``preprocessing.pixels_key``) images (n, h, w, channels) uint8 on the host, n at least
    the largest batch. ``extra``: what else is timed, such as {"policy": {stage: batch size -> work}}. Moves the
    models to the device. Raises InputError where they can't run there: too little memory, or no compiler.
    """
    import torch

    from offramp.cascades.runtime.networks import networks

    timer = bench.timer or timer_for(bench.device)
    running = networks(models, bench.device, bench.dtype, bench.compiled, gates=True)  # a gate is part of its head
    cases = [_Case(network, pixels[network.preprocessing.pixels_key], bench.device) for network in running]
    tasks = [task for case in cases for batch in bench.batches for task in case.tasks(batch, bench.seconds)]
    for what, overheads in (extra or {}).items():
        for stage, make in overheads.items():
            tasks += [_overhead(stage, what, batch, make, bench) for batch in bench.batches]
    with torch.inference_mode(), _understood():
        for case in cases:
            case.network_work(max(bench.batches))()
        timings = measure(tasks, timer, bench.blocks, bench.seed, step)
        counter = gpu_counter(bench.device) if bench.device.type == "cuda" else cpu_counter(bench.rapl)
        memory, energy = {}, {}
        for case, model in zip(cases, models, strict=True):
            weights = sum(each.nbytes for each in (*model.module.parameters(), *model.module.buffers()))
            for batch in bench.batches:
                cell, work = Cell(model.name, NETWORK, batch), case.network_work(batch)
                if (peak := peak_memory(work, bench.device)) is not None:
                    inputs = case.pixels[:batch].nbytes if bench.device.type == "cpu" else 0
                    memory[cell] = (weights + inputs + peak) / MEGABYTE
                if isinstance(counter, Counter):
                    energy[cell] = energy_of(work, counter, timer, max(bench.seconds, ENERGY_SECONDS))
    return Profile(timings, memory, energy, counter if isinstance(counter, str) else "")


def _overhead(stage: str, what: str, batch: int, make: Callable[[int], Work], bench: Bench) -> Task:
    return Task(Cell(stage, what, batch), lambda: make(batch), BESIDE * bench.seconds)


@dataclass(frozen=True)
class _Case:
    """One network, the pixels (n, h, w, channels) it may be given, and what is timed of it."""

    network: Network
    pixels: Tensor
    device: torch.device

    def tasks(self, batch: int, seconds: float) -> list[Task]:
        """The network itself, and the small things around it."""
        made = {
            NETWORK: self.network_work,
            "transfer": self._transfer,
            "normalise": self._normalise,
            "decision": self._decision,
            "gather": self._gather,
        }
        if self.network.trunk is not None:
            made["trunk"] = self._trunk
            if self.network.exit < len(self.network.trunk.net) - 1:
                made["head"] = self._head
        return [
            Task(
                Cell(self.network.name, what, batch),
                lambda make=make: make(batch),  # type: ignore[misc]
                seconds if what in (NETWORK, *OF_EXITS) else BESIDE * seconds,
            )
            for what, make in made.items()
        ]

    def _trunk(self, batch: int) -> Work:
        network, host, device = self.network, self._host(batch), self.device
        if not network.exit:
            return lambda: network.segment(0, network.inputs(host.to(device, non_blocking=True)))
        before = self._state(batch, network.exit - 1)
        return lambda: network.segment(network.exit, before)

    def _head(self, batch: int) -> Work:
        network, state = self.network, self._state(batch, self.network.exit)
        return lambda: network.head(state)

    def _state(self, batch: int, last: int) -> Tensor:
        """What the trunk has come to after segment ``last``."""
        x = self.network.inputs(self._host(batch).to(self.device))
        for i in range(last + 1):
            x = self.network.segment(i, x)
        return x

    def network_work(self, batch: int) -> Work:
        """From pixels on the host to logits on the device."""
        host, network, device = self._host(batch), self.network, self.device
        return lambda: network.logits(network.inputs(host.to(device, non_blocking=True)))

    def _host(self, batch: int) -> Tensor:
        """A copy of its own, in memory that a GPU can read by itself if it is for one."""
        rows = self.pixels[:batch].clone()
        return rows.pin_memory() if self.device.type == "cuda" else rows

    def _transfer(self, batch: int) -> Work:
        host, device = self._host(batch), self.device
        return lambda: host.to(device, non_blocking=True)

    def _normalise(self, batch: int) -> Work:
        there, network = self._host(batch).to(self.device), self.network
        return lambda: network.inputs(there)

    def _decision(self, batch: int) -> Work:
        import torch

        action = torch.arange(batch, device=self.device) % 2
        answer = torch.zeros_like(action)

        def work() -> Ints:
            host, _ = action.cpu().numpy(), answer.cpu().numpy()
            found: Ints = (host != 0).nonzero()[0]
            return found

        return work

    def _gather(self, batch: int) -> Work:
        from offramp.cascades.runtime.run import gathered

        inputs = self.network.inputs(self._host(batch).to(self.device))
        rows = np.arange(0, batch, 2)
        return lambda: gathered(inputs, rows)


@contextmanager
def _understood() -> Iterator[None]:
    """What torch says when it runs out of memory, or can't compile, as the user's matter that it is."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError("batches that fit the device's memory", _first_line(error), "--batches") from error
    except RuntimeError as error:
        name = f"{type(error).__module__}.{type(error).__name__}"
        if "DefaultCPUAllocator" in str(error):
            raise InputError("batches that fit the memory", _first_line(error), "--batches") from error
        if name.startswith(("torch._dynamo", "torch._inductor")):
            raise InputError(
                "networks, and a compiler, that torch.compile can use", _first_line(error), "--compile"
            ) from (error)
        raise


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


# --- where it was


def device_name(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The GPU's name, or that of the CPU."""
    import platform

    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        named = re.search(r"^model name\s*:\s*(\S.*?)\s*$", cpuinfo.read_text("utf-8", "replace"), re.MULTILINE)
    except OSError:
        named = None
    return named[1] if named else platform.processor() or platform.machine() or "CPU"
