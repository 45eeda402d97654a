"""Cascades and images turned into measured times, routings and errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.features.errors import InputError

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.graph.routing import Routes, Routing
    from offramp.cascades.images.images import Images
    from offramp.cascades.learning.points import Fitted
    from offramp.cascades.measuring.race import Race, System, Together
    from offramp.cascades.models.preprocessing import Preprocessing
    from offramp.cascades.models.zoo import StageModel
    from offramp.cascades.runtime.decide import LiveCascade
    from offramp.features.outputs import Outputs
from offramp.cascades.files.provenance import stored_rows

if TYPE_CHECKING:
    from offramp.cascades.files.provenance import Unseen
    from offramp.eval.measured.flags import Settings

LEVEL = 0.95


def decoded(images: Images, rows: Sequence[int], ways: Sequence[Preprocessing], skip: bool) -> tuple[Any, list[int]]:
    """Crops (m, h, w, channels) uint8 for each way of cropping, and the rows that could be decoded.

    Raises InputError for a broken image unless it is to be skipped, and if none is whole.
    """
    import numpy as np
    import torch

    from offramp.cascades.images.files import BrokenImage

    crops: list[list[Any]] = [[] for _ in ways]
    whole = []
    for row in rows:
        try:
            image = images.image(row)
            made = [way.cropped(image) for way in ways]
        except BrokenImage:
            if not skip:
                raise
            continue
        whole.append(row)
        for some, crop in zip(crops, made, strict=True):
            some.append(crop)
    if not whole:
        raise InputError("an image that is whole", "broken ones only", f"--images {images.name}")
    pixels = {way.pixels_key: torch.from_numpy(np.stack(some)) for way, some in zip(ways, crops, strict=True)}
    return pixels, whole


def live_of(fitted: Fitted, point: int, on_device: bool, settings: Settings) -> LiveCascade:
    """The cascade of a point. Raises InputError if what was read holds numbers that don't fit together."""
    from offramp.cascades.runtime.decide import live_cascade

    try:
        return live_cascade(fitted, point, on_device)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("policies as eval.frontier writes them", str(error), str(settings.policies)) from error


@dataclass(frozen=True)
class Pick:
    """A point of the frontier: its number, the error allowed over the largest model's, and what the part that it was
    picked on promised, cost and error."""

    point: int
    margin: float
    cost: float
    error: float
    called: str = ""

    @property
    def name(self) -> str:
        """How it is called in the table."""
        return self.called or f"cascade +{100 * self.margin:g}"


class Trial:
    """Everything timed side by side in one process, and the report of it."""

    def __init__(
        self,
        settings: Settings,
        data: DataFolder,
        routes: Routes,
        fitted: Fitted,
        picks: Sequence[Pick],
        models: Sequence[StageModel],
        images: Images,
        unseen: Unseen,
        device: Any,
    ) -> None:
        import numpy as np

        from offramp.cascades.graph.routing import coins
        from offramp.cascades.measuring.extraction import ways_of
        from offramp.cascades.measuring.race import Alone, Together
        from offramp.cascades.runtime.networks import networks
        from offramp.cascades.runtime.run import Runtime

        self.settings, self.data, self.routes, self.fitted, self.picks = settings, data, routes, fitted, picks
        self.models, self.device = models, device
        self.pixels, rows = decoded(images, unseen.rows, ways_of(models), settings.broken == "skip")
        self.labels = images.labels[rows]
        self.left_out, self.broken = len(images) - len(unseen.rows), len(unseen.rows) - len(rows)
        self.known = unseen.known
        self.names = [unseen.names[row] for row in rows]
        self.stored = stored_rows(self.names, data)
        self.gates = bool(fitted.sweep.reader.settings.measured)
        self.networks = networks(models, device, settings.dtype, settings.compile, self.gates)
        self.alone = [Alone(net.name, s, net, device) for s, net in enumerate(self.networks)]
        self.cascades: list[Together] = []
        named = len(set(self.names)) == len(self.names)
        self.ids = np.array(self.names if named else range(len(self.names)))
        for pick in picks:
            live = live_of(fitted, pick.point, device.type != "cpu", settings)
            plan = live.drawn(coins(self.ids, fitted.coin))  # the coins of the stored outputs' routing
            self.cascades.append(Together(pick.name, Runtime(self.networks, live, device), plan))

    def report(self, step: Any) -> dict[str, Any]:
        """Time, compare, and put together what the command prints and writes; JSON's own types."""
        from offramp.cascades.measuring.race import race

        settings = self.settings
        systems = self._systems()
        step("timing", 2 * settings.rounds)
        found = race(
            systems, self.networks, self.pixels, settings.batch, settings.rounds, self.device, lambda _: step("timing")
        )
        step("checking the routing")
        outputs = self._outputs()
        apart = self._apart(outputs)
        routings = self.fitted.route(outputs)
        rows = [self._row(i, found, routings) for i in range(len(systems))]
        if settings.log is not None:
            self._log(settings.log, found, outputs)
        return {
            "about": {
                **about(settings, self.device, len(self.labels)),
                "left_out": self.left_out,
                "broken": self.broken,
                "known": self.known,
                "logits_apart": apart,
            },
            "systems": rows,
            "break_even": [line for i in range(len(self.cascades)) for line in self._break_even(i, found)],
            "queue": self._queue(found) if settings.queue else None,
        }

    def _outputs(self) -> Outputs:
        """Logits of all stages on all images, as eval.extract would store them."""
        import numpy as np
        import torch

        from offramp.cascades.runtime.decide import parted
        from offramp.cascades.runtime.run import Batch
        from offramp.features.outputs import Outputs, Stage

        stages = []
        with torch.inference_mode():
            for network in self.networks:
                parts = []
                for start in range(0, len(self.labels), self.settings.batch):
                    part = {key: x[start : start + self.settings.batch] for key, x in self.pixels.items()}
                    inputs = Batch(part, self.device).inputs(network, None)
                    parts.append(network.said(inputs).cpu().numpy())
                logits = np.concatenate(parts)
                if not np.isfinite(logits).all():
                    raise InputError("finite logits", "NaN or infinity", f"network {network.name}")
                z, gate = parted(logits, len(self.models[0].classes))
                stages.append(Stage(network.name, logits=z, measured={} if gate is None else {"gate": gate}))
        return Outputs(tuple(stages), self.labels.astype(np.int64), self.ids, "test", len(self.models[0].classes))

    def _log(self, path: Path, race: Race, outputs: Outputs) -> None:
        """The routing of the last system, as it was served, in the form that eval.watch reads."""
        import numpy as np

        from offramp.cascades.graph.routing import Routing
        from offramp.cascades.learning.chains import chain_name
        from offramp.eval.guarantees.reference import confidences
        from offramp.eval.monitoring.routinglog import write_log

        served, dearest = race.served[-1], outputs.stages[self._largest()].logits
        assert dearest is not None
        way, answer = (np.concatenate([getattr(one, name) for one in served]) for name in ("path", "answer"))
        routing = Routing(self.routes, way, answer, answer != self.labels, outputs.part)
        names = [chain_name(self.routes, each) for each in self.routes.paths]
        sure, taken = confidences(routing, outputs), [names[q] for q in way]
        write_log(path, taken, sure, answer, self.labels, outputs.ids, dearest.argmax(axis=1))

    def _apart(self, outputs: Outputs) -> float | None:
        """The largest difference between a logit here and the one stored in the data folder; None if none is there."""
        import numpy as np

        if self.stored is None:
            return None
        there = self.data.parts["test"].of(self.routes.stages).take(np.array(self.stored))
        pairs = zip(outputs.stages, there.stages, strict=True)
        return max(float(np.abs(ours.logits - theirs.logits).max()) for ours, theirs in pairs)  # type: ignore[operator]

    def _row(self, i: int, race: Race, routings: Sequence[Routing]) -> dict[str, Any]:
        import numpy as np

        n, stages = len(self.labels), self.routes.stages
        largest = self._largest()
        answer = np.concatenate([served.answer for served in race.served[i]])
        wrong = answer != self.labels
        base = np.concatenate([served.answer for served in race.served[largest]]) != self.labels
        per_round = race.seconds[i].sum(axis=1)
        ratios = race.seconds[largest].sum(axis=1) / per_round
        low, high = np.quantile(per_round, [0.25, 0.75]) / n * 1e3
        seconds = float(np.median(race.seconds[i], axis=0).sum())
        reference = float(np.median(race.seconds[largest], axis=0).sum())
        ideal = float(race.ideal(i).sum())
        costs = self.data.costs
        predicted = costs.step((), stages[i]) if i < len(stages) else self._spent(i, race)
        whole = costs.step((), stages[largest])
        row: dict[str, Any] = {
            "system": self._systems()[i].name,
            "ms_per_image": seconds / n * 1e3,
            "ms_low_quartile": float(low),
            "ms_high_quartile": float(high),
            "speedup": reference / seconds,
            "speedup_low": float(ratios.min()),
            "speedup_high": float(ratios.max()),
            "ideal_ms_per_image": ideal / n * 1e3,
            "times_ideal": seconds / ideal,
            "predicted_cost": predicted,
            **dict(zip(("cost_low", "cost_high"), self._cost_interval(i, race), strict=True)),
            "unit": costs.unit,
            "predicted_speedup": whole / predicted if predicted else None,
            "error": float(wrong.mean()),
            **dict(zip(("error_low", "error_high"), wilson(int(wrong.sum()), n), strict=True)),
            **extra_error(wrong, base, self.settings.seed),
        }
        share = np.bincount(self._exits(i, race), minlength=len(stages)) / n
        row |= {f"share_{stage}": float(part) for stage, part in zip(stages, share, strict=True)}
        if i >= len(stages):
            pick = self.picks[i - len(stages)]
            routing = routings[pick.point]
            path = np.concatenate([served.path for served in race.served[i]])
            same = (path == routing.path) & (answer == routing.answer)
            row |= {
                "family": self.fitted.names[pick.point][0],
                "promised_error": pick.error,
                "promised_cost": pick.cost,
                "routed_as_stored": int(same.sum()),
            }
        return row

    def _systems(self) -> list[System]:
        return [*self.alone, *self.cascades]

    def _largest(self) -> int:
        costs = [self.data.costs.step((), stage) for stage in self.routes.stages]
        return max(range(len(costs)), key=lambda s: costs[s])

    def _exits(self, i: int, race: Race) -> Any:
        import numpy as np

        if i < len(self.routes.stages):
            return np.full(len(self.labels), i)
        return self.routes.exits[np.concatenate([served.path for served in race.served[i]])]

    def _spent(self, i: int, race: Race) -> float:
        """Mean cost of the paths taken, by the data folder's costs."""
        import numpy as np

        return float(self.routes.cost[np.concatenate([served.path for served in race.served[i]])].mean())

    def _cost_interval(self, i: int, race: Race) -> tuple[float, float]:
        """Where the mean cost lies by the normal approximation, as far as these examples tell; a stage's is fixed."""
        import numpy as np
        from scipy.stats import norm

        if i < len(self.routes.stages):
            cost = self.data.costs.step((), self.routes.stages[i])
            return cost, cost
        cost = self.routes.cost[np.concatenate([served.path for served in race.served[i]])]
        width = float(norm.ppf((1 + LEVEL) / 2) * cost.std() / np.sqrt(len(cost)))
        return float(cost.mean()) - width, float(cost.mean()) + width

    def _break_even(self, i: int, race: Race) -> list[dict[str, Any]]:
        """For each stage of a cascade that examples left and others went on from: what must stop there to pay.

        Who stops saves what those who go on take from there to their end, on average.
        """
        import numpy as np

        from offramp.cascades.measuring.race import break_even

        system = i + len(self.alone)
        path = np.concatenate([served.path for served in race.served[system]])
        ways = [self.routes.paths[q] for q in path]
        seconds = np.sum([race.spent(served) for served in race.served[system]], axis=0)
        through = np.array([sum(stage in way for way in ways) for stage in range(len(seconds))])
        each = seconds / np.maximum(through, 1)
        found = []
        for stage, name in enumerate(self.routes.stages):
            onward = [way[way.index(stage) + 1 :] for way in ways if stage in way and way[-1] != stage]
            if not onward or len(onward) == through[stage]:
                continue
            saved = sum(each[s] for rest in onward for s in rest) / len(onward)
            sizes = [size for served in race.served[system] for s, size in served.batches if s == stage]
            batch = int(np.median(sizes))
            spent = race.cells[stage, min(sizes, key=lambda size: abs(size - batch))] + self._policy_seconds(
                system, race
            )
            following = [rest[0] for rest in onward]
            found.append(
                {
                    "system": self.cascades[i].name,
                    "stage": name,
                    "batch": batch,
                    "pays_above": None if isinf(share := break_even(spent, saved, batch)) else share,
                    "stops": 1 - len(onward) / int(through[stage]),
                    "following": self.routes.stages[max(set(following), key=following.count)],
                }
            )
        return found

    @staticmethod
    def _policy_seconds(system: int, race: Race) -> float:
        """What a batch takes beyond its stages (policy, gathering, bookkeeping), for one of its stages."""
        import numpy as np

        beyond = np.median(race.seconds[system], axis=0) - race.ideal(system)
        runs = [len(served.batches) for served in race.served[system]]
        return max(0.0, float(beyond.sum() / sum(runs)))

    def _queue(self, race: Race) -> list[dict[str, Any]]:
        return [queue_row(self, i, race) for i in range(len(self.cascades))]


def queue_row(trial: Trial, i: int, race: Race) -> dict[str, Any]:
    """Requests of a few images each, all submitted at once, served by the queue, and one after another without it."""
    import time

    import numpy as np

    from offramp.cascades.measuring.race import line
    from offramp.cascades.runtime.decide import live_cascade
    from offramp.cascades.runtime.queue import Queue, worth_running

    settings, size = trial.settings, trial.settings.queue
    n = len(trial.labels)
    plan = trial.cascades[i].plan
    parts = [({key: x[start : start + size] for key, x in trial.pixels.items()}, start) for start in range(0, n, size)]
    worth = []
    for stage in range(len(trial.networks)):
        cells = race.times(stage)
        overhead, slope = line(*zip(*cells, strict=True)) if len(cells) > 1 else (0.0, 1.0)
        worth.append(max(worth_running(overhead, slope, settings.batch), min(settings.batch, 16)))
    live = live_cascade(trial.fitted, trial.picks[i].point)
    gathered, alone, answers = [], [], []
    for _ in range(settings.rounds):
        begin = time.perf_counter()
        with Queue(trial.networks, live, trial.device, worth, settings.patience / 1e3, settings.batch) as queue:
            futures = [
                queue.submit(pixels, None if plan is None else plan[start : start + size]) for pixels, start in parts
            ]
            answers = [future.result().answer for future in futures]
        gathered.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for pixels, start in parts:
            trial.cascades[i](pixels, start)
        alone.append(time.perf_counter() - begin)
    said = np.concatenate(answers)
    return {
        "system": trial.cascades[i].name,
        "request": size,
        "worth": dict(zip(trial.routes.stages, worth, strict=True)),
        "ms_per_image": float(np.median(gathered)) / n * 1e3,
        "ms_per_image_alone": float(np.median(alone)) / n * 1e3,
        "error": float((said != trial.labels).mean()),
    }


def about(settings: Settings, device: Any, images: int) -> dict[str, Any]:
    """The circumstances, without which no time means anything."""
    import torch

    from offramp.cascades.measuring.latency import device_name

    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "dtype": settings.dtype,
        "compiled": settings.compile,
        "torch": torch.__version__,
        "batch": settings.batch,
        "images": images,
        "rounds": settings.rounds,
        "topology": settings.topology,
        "data": settings.source,
    }


def wilson(wrong: int, n: int) -> tuple[float, float]:
    """Interval of a share, ``wrong`` of ``n`` (Wilson, 1927).

    >>> [round(end, 3) for end in wilson(0, 10)], [round(end, 3) for end in wilson(5, 10)]
    ([0.0, 0.278], [0.237, 0.763])
    """
    from scipy.stats import binomtest

    found = binomtest(wrong, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def extra_error(wrong: Any, base: Any, seed: int) -> dict[str, float]:
    """Errors beyond the largest model's, with a paired bootstrap interval."""
    import numpy as np

    change = wrong.astype(float) - base.astype(float)
    values, counts = np.unique(change, return_counts=True)
    n = len(change)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, 2000) @ values / n
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"extra_error": float(change.mean()), "extra_low": float(low), "extra_high": float(high)}
