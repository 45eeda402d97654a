"""What cutting a network into segments costs: all exits run segment by segment against the plain network and its heads.

    python -m benchmarks.branches

In one process, alternating; ``ratio`` is the median over rounds of (segments and heads) / (plain forward pass + heads).
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import pandas as pd
import torch

from offramp.cascades.models.zoo import load_stages

NETWORKS = ("b_lenet", "b_alexnet", "b_resnet56", "exits_googlenet", "exits_resnet")
ROUNDS = {1: 300, 64: 15}
WANTED = 1.03
RESULTS = Path(__file__).parent / "results" / "branches.csv"


def seconds(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measured(name: str, batch: int) -> dict[str, object]:
    stages = load_stages(name)
    how, place = stages[0].preprocessing, stages[0].place
    assert place is not None
    net = place.net.to(memory_format=torch.channels_last)
    x = torch.randn(batch, how.channels, *how.crop).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        states = list(net.states(x))[:-1]
        heads = [(net.heads[i], state) for i, state in enumerate(states)]
        net(x), net.backbone(x)
        plain, answers, whole = [], [], []
        for _ in range(ROUNDS[batch]):
            plain.append(seconds(lambda: net.backbone(x)))
            whole.append(seconds(lambda: net(x)))
            answers.append(seconds(lambda: [head(state) for head, state in heads]))
    ratios = [w / (p + a) for w, p, a in zip(whole, plain, answers, strict=True)]
    return {
        "network": name,
        "batch": batch,
        "plain_ms": 1e3 * median(plain),
        "heads_ms": 1e3 * median(answers),
        "segments_ms": 1e3 * median(whole),
        "ratio": median(ratios),
        "wanted": WANTED,
    }


def main() -> None:
    frame = pd.DataFrame([measured(name, batch) for name in NETWORKS for batch in ROUNDS])
    frame.to_csv(RESULTS, index=False, float_format="%.4g")
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
