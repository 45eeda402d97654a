"""A learned cascade over live stages, torch modules or any callables, each run only on what reaches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.api import Answers
from offramp.features.errors import InputError
from offramp.features.outputs import Ints

if TYPE_CHECKING:
    from offramp.cascades.learning.points import Fitted
    from offramp.cascades.runtime.decide import LiveCascade


@dataclass(frozen=True)
class Cascade:
    """A cascade that runs: called with a batch, it gives an answer for each example.

    A batch is a numpy array, a torch tensor, or a list, an example a row; each stage is called with the rows alone that
    reach it, and returns logits (m, c) of them, of either library.
    """

    live: LiveCascade
    stages: tuple[Callable[[Any], Any], ...]
    classes: int
    coin: int

    @classmethod
    def of(cls, fitted: Fitted, point: int, stages: Mapping[str, Any]) -> Cascade:
        """Of the frontier's point number ``point``. Raises InputError for stages that are missing or not callable."""
        from offramp.cascades.runtime.decide import live_cascade

        names = fitted.sweep.routes.stages
        if np.isnan(fitted.sweep.reader.temperature).any():
            raise InputError("a policy of stages that give logits", "one of answers alone", "runtime")
        if missing := [name for name in names if name not in stages]:
            raise InputError(f"stages {', '.join(names)}", f"no {', '.join(missing)}", "runtime")
        if stray := [name for name in stages if name not in names]:
            raise InputError(f"stages {', '.join(names)}", f"{', '.join(stray)} besides", "runtime")
        if dead := [name for name in names if not callable(stages[name])]:
            raise InputError("torch modules or other callables", type(stages[dead[0]]).__name__, f"stage {dead[0]!r}")
        runnable = tuple(_without_gradients(stages[name]) for name in names)
        return cls(live_cascade(fitted, point), runnable, fitted.sweep.reader.classes, fitted.coin)

    def __call__(self, batch: Any, ids: Any = None) -> Ints:
        """Answers (n,), classes of the ``batch`` of n examples; see ``run``."""
        return self.run(batch, ids).answers

    def run(self, batch: Any, ids: Any = None) -> Answers:
        """Answers with exits, costs and paths.

        ``ids`` (n,): what the examples are called, which is what the coin of a mixture is tossed by; the rows'
        numbers unless given. Raises InputError for logits that are not finite or of another shape.
        """
        from offramp.api import answers_of
        from offramp.cascades.graph.routing import Routing, coins

        routes, n = self.live.routes, len(batch)
        answer, path = np.zeros(n, np.int64), np.zeros(n, np.int64)
        drawn = self.live.drawn(coins(range(n) if ids is None else ids, self.coin))
        for p, plan in enumerate(self.live.plans):
            mine = np.arange(n) if drawn is None else np.flatnonzero(drawn == p)
            waiting: list[tuple[int, Ints, list[Any]]] = [(plan.entry, mine, [])] if len(mine) else []
            while waiting:
                q, rows, before = waiting.pop()
                seen = [*before, self._logits(routes.paths[q][-1], batch, rows)]
                action, said = plan.decide[q](seen)
                stop = np.asarray(action) == 0
                answer[rows[stop]], path[rows[stop]] = np.asarray(said)[stop], q
                for way, child in enumerate(routes.children[q], start=1):
                    going = np.flatnonzero(np.asarray(action) == way)
                    if len(going):
                        waiting.append((child, rows[going], [z[going] for z in seen]))
        return answers_of(Routing(routes, path, answer, np.zeros(n, bool), "test"))

    def _logits(self, stage: int, batch: Any, rows: Ints) -> Any:
        where = f"stage {self.live.routes.stages[stage]!r}"
        some = batch[rows] if hasattr(batch, "shape") else [batch[i] for i in rows.tolist()]
        z = self.stages[stage](some)
        z = z.detach().float().cpu().numpy() if hasattr(z, "detach") else np.asarray(z, dtype=np.float32)
        if z.shape != (len(rows), self.classes):
            raise InputError(f"logits ({len(rows)}, {self.classes})", f"shape {z.shape}", where)
        if not np.isfinite(z).all():
            raise InputError("finite logits", "NaN or infinity", where)
        return z


def _without_gradients(stage: Any) -> Callable[[Any], Any]:
    """A torch module in eval mode and without gradients; any other callable as it is."""
    if not (hasattr(stage, "eval") and hasattr(stage, "parameters")):
        return stage  # type: ignore[no-any-return]
    import torch

    module = stage.eval()

    def run(batch: Any) -> Any:
        with torch.inference_mode():
            return module(batch)

    return run
