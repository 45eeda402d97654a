"""A topology string turned into stages and allowed jumps, and those into the paths that they unroll to."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from offramp.cascades.graph.costs import Costs
from offramp.cascades.graph.routing import Routes
from offramp.features.errors import InputError

MAX_PATHS = 4096
"""Every path gets rules of its own for every price and fold. Twelve stages with every jump allowed unroll to 4095
paths, minutes of fitting; a topology with more is a slip far more often than a wish."""

NAMES_SHOWN = 12
"""A one-line message can name this many stages and still be read."""


@dataclass(frozen=True)
class Topology:
    """Stages in an order in which every jump goes forward, where each may jump to, and where a path may begin.

    ``jumps`` maps a stage to the later stages that it may go on to; stages that are missing there only stop.
    Raises InputError for a jump that goes back or to a stage that isn't there, a stage that no entry leads to,
    and more than ``MAX_PATHS`` paths.
    """

    stages: tuple[str, ...]
    jumps: Mapping[str, tuple[str, ...]]
    entries: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what the class says it refuses."""
        rank = {stage: i for i, stage in enumerate(self.stages)}
        for source, targets in self.jumps.items():
            for target in targets:
                if rank.get(source, len(rank)) >= rank.get(target, -1):
                    raise InputError(
                        f"jumps forward in the order {_listed(self.stages)}", f"{source}>{target}", "topology"
                    )
        arriving = _paths_ending_at(self.stages, self.jumps, self.entries)
        for stage, paths in arriving.items():
            if not paths:
                raise InputError(
                    f"every stage to be reachable from {_listed(self.entries)}",
                    f"no way to {stage!r}: name a jump to it, or drop it",
                    "topology",
                )
        if (paths := sum(arriving.values())) > MAX_PATHS:
            raise InputError(f"at most {MAX_PATHS} paths", f"{paths}: {_what_to_drop(self)}", "topology")


def parse_topology(text: str, stages: Sequence[str]) -> Topology:
    """Read ``a_g_r`` or ``a>g,r;g>r``, where ``stages`` are the names there are, cheapest usually first.

    ``a_g_r``: these stages in this order, every forward jump allowed, any of them may be the entry.
    ``a>g,r;g>r``: exactly the jumps named (``a>g>r`` is short for ``a>g;g>r``); paths begin at the stages
    that no jump leads to, and at those that stand alone between semicolons (``a>g,r;g>r;g`` begins at a or g).
    A token is a stage's name in any case, an unambiguous prefix of it, or, where nothing begins so, a word inside
    a name (``exit1`` for ``resnet.exit1``). Names may contain underscores.

    Raises InputError for an unknown or ambiguous token, a stage named twice, a cycle, no text, too many paths.

    >>> parse_topology("a_g_r", ["alexnet", "googlenet", "resnet50"]).stages
    ('alexnet', 'googlenet', 'resnet50')
    >>> parse_topology("a>g;a>r", ["alexnet", "googlenet", "resnet50"]).entries
    ('alexnet',)
    """
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    where = f"topology {shown!r}"
    if not text.strip(" ;"):
        raise InputError("stages such as 'a_g_r', or jumps such as 'a>g,r;g>r'", "none", where)
    try:
        return _graph(text, stages) if re.search("[>;,]", text) else _chain(text, stages)
    except InputError as error:
        raise InputError(error.expected, error.found, where) from None


def unroll(topology: Topology, costs: Costs) -> Routes:
    """Every path from every entry, depth first, and what it spends at each of its stages, in the unit of ``costs``.

    >>> from offramp.cascades.graph.costs import StageCost
    >>> costs = Costs({"a": StageCost("a", 1.0, 0.0), "r": StageCost("r", 5.0, 0.0)}, "ms")
    >>> routes = unroll(parse_topology("a_r", ["a", "r"]), costs)
    >>> routes.paths, routes.cost.tolist()
    (((0,), (0, 1), (1,)), [1.0, 6.0, 5.0])
    """
    rank = {stage: i for i, stage in enumerate(topology.stages)}
    alone = np.array([costs.step((), stage) for stage in topology.stages])
    paths: list[tuple[int, ...]] = []
    spent: list[list[float]] = []
    # A stack, not recursion: a chain may be longer than Python's stack is deep.
    waiting: list[tuple[tuple[str, ...], list[float]]] = [((), [0.0] * len(rank))]
    while waiting:
        path, so_far = waiting.pop()
        if path:
            paths.append(tuple(rank[stage] for stage in path))
            spent.append(so_far)
        onward = topology.jumps.get(path[-1], ()) if path else topology.entries
        for stage in sorted(onward, key=rank.__getitem__, reverse=True):
            here = so_far.copy()
            here[rank[stage]] = costs.step(path, stage)
            waiting.append(((*path, stage), here))
    return Routes(topology.stages, tuple(paths), np.array(spent), costs.unit, alone)


# --- the two forms of text


def _chain(text: str, stages: Sequence[str]) -> Topology:
    named = _split(text.strip().split("_"), stages)
    _refuse_twice(named)
    jumps = {stage: named[i + 1 :] for i, stage in enumerate(named[:-1])}
    return Topology(named, jumps, named)


def _graph(text: str, stages: Sequence[str]) -> Topology:
    jumps: dict[str, set[str]] = {}
    begin: set[str] = set()
    for clause in filter(str.strip, text.split(";")):
        groups = [tuple(_resolve(token.strip(), stages) for token in part.split(",")) for part in clause.split(">")]
        for group in groups:
            _refuse_twice(group)
            for stage in group:
                jumps.setdefault(stage, set())
        for sources, targets in pairwise(groups):
            for source in sources:
                jumps[source].update(targets)
        if len(groups) == 1:
            begin.update(groups[0])
    order = _forward_order(jumps, [stage for stage in stages if stage in jumps])
    reached = set().union(*jumps.values())
    return Topology(
        order,
        {stage: tuple(target for target in order if target in jumps[stage]) for stage in order if jumps[stage]},
        tuple(stage for stage in order if stage in begin or stage not in reached),
    )


def _refuse_twice(named: Sequence[str]) -> None:
    twice = [stage for i, stage in enumerate(named) if stage in named[:i]]
    if twice:
        raise InputError("every stage once", f"{twice[0]!r} twice", "topology")


def _forward_order(jumps: Mapping[str, set[str]], stages: Sequence[str]) -> tuple[str, ...]:
    """The stages so that every jump goes forward; where it may go either way, as in ``stages`` (Kahn 1962)."""
    rank = {stage: i for i, stage in enumerate(stages)}
    missing = dict.fromkeys(stages, 0)
    for targets in jumps.values():
        for target in targets:
            missing[target] += 1
    ready = [rank[stage] for stage in stages if not missing[stage]]
    order: list[str] = []
    while ready:
        stage = stages[heapq.heappop(ready)]
        order.append(stage)
        for target in jumps[stage]:
            missing[target] -= 1
            if not missing[target]:
                heapq.heappush(ready, rank[target])
    if len(order) < len(stages):
        cycle = _cycle(jumps, [stage for stage in stages if stage not in order])
        raise InputError("jumps without a cycle", ">".join(cycle), "topology")
    return tuple(order)


def _cycle(jumps: Mapping[str, set[str]], stuck: Sequence[str]) -> list[str]:
    """One cycle, its first stage repeated at the end. Each of ``stuck`` has a predecessor among them."""
    back = [stuck[0]]
    while back[-1] not in back[:-1]:
        back.append(next(stage for stage in stuck if back[-1] in jumps[stage]))
    return back[back.index(back[-1]) :][::-1]


# --- tokens


def _exact(token: str, name: str) -> bool:
    return token == name


def _any_case(token: str, name: str) -> bool:
    return token.lower() == name.lower()


def _prefix(token: str, name: str) -> bool:
    return name.lower().startswith(token.lower())


def _word(token: str, name: str) -> bool:
    return re.search(rf"(?<![^\W_]){re.escape(token)}(?![^\W_])", name, re.IGNORECASE) is not None


def _word_prefix(token: str, name: str) -> bool:
    return re.search(rf"(?<![^\W_]){re.escape(token)}", name, re.IGNORECASE) is not None


Fit = Callable[[str, str], bool]
FITS: tuple[Fit, ...] = (_exact, _any_case, _prefix, _word, _word_prefix)
"""How a token may name a stage; the first that any stage satisfies decides."""


def _candidates(token: str, stages: Sequence[str], fits: Sequence[Fit] = FITS) -> list[str]:
    """The stages that a token may mean; none for an empty one."""
    for fit in fits if token else ():
        if found := [name for name in stages if fit(token, name)]:
            return found
    return []


def _resolve(token: str, stages: Sequence[str]) -> str:
    found = _candidates(token, stages)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError("an unambiguous prefix of a stage's name", f"{token!r}, which fits {_listed(found)}")
    raise InputError(f"stages among {_listed(stages)}", repr(token) if token else "nothing where a stage should stand")


def _split(pieces: Sequence[str], stages: Sequence[str]) -> tuple[str, ...]:
    """The stages that underscore-separated pieces name, when names themselves may contain underscores.

    Full names are preferred to prefixes, prefixes to words inside names, and then longer tokens to shorter ones.
    """
    longest = 1 + max(name.count("_") for name in stages)
    for kinds in (2, 3, len(FITS)):
        rest: list[tuple[str, ...] | None] = [None] * len(pieces) + [()]
        for i in reversed(range(len(pieces))):
            for j in range(min(i + longest, len(pieces)), i, -1):
                behind = rest[j]
                if behind is not None:
                    found = _candidates("_".join(pieces[i:j]), stages, FITS[:kinds])
                    if len(found) == 1:
                        rest[i] = (found[0], *behind)
                        break
        if rest[0] is not None:
            return rest[0]
    # No way through: blame the piece where the furthest attempt ends.
    reached = [True] + [False] * len(pieces)
    for i in range(len(pieces)):
        for j in range(i + 1, min(i + longest, len(pieces)) + 1):
            reached[j] |= reached[i] and len(_candidates("_".join(pieces[i:j]), stages)) == 1
    stuck = max(i for i in range(len(pieces)) if reached[i])
    return (_resolve(pieces[stuck], stages),)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


# --- counting without unrolling


def _paths_ending_at(
    stages: Sequence[str], jumps: Mapping[str, Sequence[str]], entries: Sequence[str]
) -> dict[str, int]:
    """How many paths end at each stage; every path ends at one, so the sum counts them all."""
    count = {stage: int(stage in entries) for stage in stages}
    for stage in stages:
        for target in jumps.get(stage, ()):
            count[target] += count[stage]
    return count


def _what_to_drop(topology: Topology) -> str:
    """Stages that need to go before the paths are few enough, those on most paths first."""
    left, dropped = list(topology.stages), []
    while True:
        jumps = {s: [t for t in topology.jumps.get(s, ()) if t in left] for s in left}
        led_to = {t for targets in jumps.values() for t in targets}
        entries = [s for s in left if s in topology.entries or s not in led_to]
        ending = _paths_ending_at(left, jumps, entries)
        if sum(ending.values()) <= MAX_PATHS:
            break
        starting = dict.fromkeys(left, 1)
        for stage in reversed(left):
            starting[stage] += sum(starting[target] for target in jumps[stage])
        dropped.append(max(left, key=lambda s: ending[s] * starting[s]))
        left.remove(dropped[-1])
    return f"drop {len(dropped)} of the {len(topology.stages)} stages (say {_listed(dropped)}), or name fewer jumps"
