"""A topology turned into those inside it that a search may take in its place, each as it is written."""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations

from offramp.cascades.graph.costs import Costs
from offramp.cascades.graph.topology import Topology, parse_topology, unroll
from offramp.features.errors import InputError

FULL_LATTICE = 4
"""Stages up to which any may be dropped; beyond, one at a time."""


def sub_topologies(topology: Topology, costs: Costs, bound: set[str]) -> dict[str, Topology]:
    """The topology and those inside it, by how they are written: fewer stages, or only the shortest jumps.

    ``bound``: stages that stay. Of up to ``FULL_LATTICE`` stages any may go while two are left, of more one at a time.
    """
    stages = topology.stages
    most = len(stages) - 2 if len(stages) <= FULL_LATTICE else 1
    found: dict[tuple[tuple[str, ...], ...], Topology] = {}
    for dropped in range(max(most, 0) + 1):
        for gone in combinations(stages, dropped):
            if bound & set(gone):
                continue
            kept = tuple(stage for stage in stages if stage not in gone)
            jumps = {s: tuple(t for t in topology.jumps.get(s, ()) if t in kept) for s in kept}
            entries = tuple(stage for stage in topology.entries if stage in kept)
            for shortest in (False, True):
                fewer = {s: to[:1] if shortest else to for s, to in jumps.items() if to}
                with suppress(InputError):  # some stage can't be reached any more
                    one = Topology(kept, fewer, entries)
                    found.setdefault(named_paths(one, costs), one)
    return {written_out(one, costs): one for one in found.values()}


def written_out(topology: Topology, costs: Costs) -> str:
    """The topology as ``parse_topology`` reads it.

    >>> from offramp.cascades.graph.costs import StageCost
    >>> costs = Costs({name: StageCost(name, 1.0, 0.0) for name in ("a", "b", "c")}, "ms")
    >>> written_out(parse_topology("a_b_c", "abc"), costs), written_out(parse_topology("a>b>c", "abc"), costs)
    ('a_b_c', 'a>b;b>c;a')
    """
    chain = "_".join(topology.stages)
    with suppress(InputError):
        if named_paths(parse_topology(chain, tuple(costs.stages)), costs) == named_paths(topology, costs):
            return chain
    jumps = [f"{stage}>{','.join(to)}" for stage, to in topology.jumps.items() if to]
    return ";".join([*jumps, *topology.entries])


def named_paths(topology: Topology, costs: Costs) -> tuple[tuple[str, ...], ...]:
    """Every path as its stages' names: what two topologies are the same by."""
    return tuple(tuple(topology.stages[s] for s in path) for path in unroll(topology, costs).paths)
