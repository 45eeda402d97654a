"""What every stage alone would have answered and lost: all that oracles and threshold baselines look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offramp.cascades.graph.routing import Routes, Routing
from offramp.cascades.learning.answers import Loss
from offramp.features.belief.calibration import AnswerCalibration
from offramp.features.confidence import read_confidence
from offramp.features.outputs import NO_ANSWER, Floats, Ints, Outputs


@dataclass(frozen=True)
class Outcomes:
    """The stages' own answers on n examples.

    ``answer`` (n, k) classes; ``wrong`` (n, k) loss of each, in [0, 1]; ``confidence`` (n, k), higher is surer:
    what a practitioner would put a threshold on (maximum probability, or the API's own number). ``entropy`` (n, k) of
    the probabilities as they are; None where some stage has answers alone.
    """

    stages: tuple[str, ...]
    answer: Ints
    wrong: Floats
    confidence: Floats
    part: str
    entropy: Floats | None = None

    def __len__(self) -> int:
        return len(self.answer)

    def take(self, rows: Ints) -> Outcomes:
        """The examples ``rows`` (m,)."""
        entropy = None if self.entropy is None else self.entropy[rows]
        return Outcomes(self.stages, self.answer[rows], self.wrong[rows], self.confidence[rows], self.part, entropy)

    def follow(self, routes: Routes, path: Ints) -> Routing:
        """Everyone takes the path given, (n,) into ``routes.paths``, and answers as its last stage does."""
        n, k = self.answer.shape
        # One flat index serves both columns, at half the time of indexing by row and column.
        here = np.arange(0, n * k, k) + routes.exits.take(path)
        return Routing(routes, path, self.answer.ravel().take(here), self.wrong.ravel().take(here), self.part)


def single_outcomes(outputs: Outputs, loss: Loss, calibration: Mapping[int, AnswerCalibration]) -> Outcomes:
    """What every stage of ``outputs`` alone would have answered and lost.

    Confidence: the maximum probability of the logits as they are; for answers the number called "confidence" (or
    the first that was measured); where nothing was, how reliable answers of that class are (``calibration``).
    """
    ranked, confidence, entropy = [], [], []
    for s, stage in enumerate(outputs.stages):
        if stage.logits is not None:
            seen = read_confidence(stage.logits, ranks=loss.ranks)
            ranked.append(np.pad(seen.top, ((0, 0), (0, loss.ranks - seen.top.shape[1])), constant_values=NO_ANSWER))
            confidence.append(np.exp(seen.top_logp[:, 0]))
            entropy.append(np.asarray(seen.entropy, dtype=np.float64))
            continue
        assert stage.answers is not None
        own = stage.answers[:, : loss.ranks]
        ranked.append(np.pad(own, ((0, 0), (0, loss.ranks - own.shape[1])), constant_values=NO_ANSWER))
        measured = stage.measured.get("confidence", next(iter(stage.measured.values()), None))
        confidence.append(calibration[s].reliability[own[:, 0]] if measured is None else measured)
    full = ranked[-1]
    return Outcomes(
        outputs.names,
        np.stack([r[:, 0] for r in ranked], axis=1),
        np.stack([loss.of(r, outputs.labels, full) for r in ranked], axis=1),
        np.stack([np.asarray(c, dtype=np.float64) for c in confidence], axis=1),
        outputs.part,
        np.stack(entropy, axis=1) if len(entropy) == len(outputs.stages) else None,
    )
