from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.cascades.graph.costs import Costs, StageCost
from offramp.cascades.graph.topology import MAX_PATHS, Topology, parse_topology, unroll
from offramp.features.errors import InputError

AGR = ("alexnet", "googlenet", "resnet50")
CIFAR = ("cifar_resnet20", "cifar_resnet32", "cifar_resnet56")
EXITS = ("alexnet", "resnet.exit1", "resnet.exit2", "resnet.exit10")


def prices(names: tuple[str, ...]) -> Costs:
    return Costs({name: StageCost(name, 10.0**i, 0.0) for i, name in enumerate(names)}, "ms")


def paths(text: str, names: tuple[str, ...] = AGR) -> set[str]:
    routes = unroll(parse_topology(text, names), prices(names))
    return {">".join(routes.stages[i][0] for i in path) for path in routes.paths}


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("a_g_r", AGR, AGR),
        (" a_g_r ", AGR, AGR),
        ("A_Goo_RESNET50", AGR, AGR),
        ("r_a", AGR, ("resnet50", "alexnet")),
        ("g", AGR, ("googlenet",)),
        ("cifar_resnet20_cifar_resnet56", CIFAR, ("cifar_resnet20", "cifar_resnet56")),
        ("resnet20_resnet56", CIFAR, ("cifar_resnet20", "cifar_resnet56")),
        ("cifar_resnet20_resnet56", CIFAR, ("cifar_resnet20", "cifar_resnet56")),
        ("resnet2_cifar_resnet5", CIFAR, ("cifar_resnet20", "cifar_resnet56")),
        ("alexnet_exit1_exit2", EXITS, ("alexnet", "resnet.exit1", "resnet.exit2")),
        ("a_exit10", EXITS, ("alexnet", "resnet.exit10")),
        ("resnet.exit1", EXITS, ("resnet.exit1",)),
        ("r", ("r", "resnet", "rn50"), ("r",)),
        ("R_r", ("r", "R"), ("R", "r")),
        # Full names are read before a prefix, and a prefix before a word inside a name.
        ("a_g", ("a", "g", "a_google"), ("a", "g")),
        ("a_g", ("alexnet", "googlenet", "x_a_g"), ("alexnet", "googlenet")),
    ],
)
def test_chain_text_names_stages(text: str, names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    topology = parse_topology(text, names)
    assert topology.stages == expected
    assert topology.entries == expected
    assert topology.jumps == {stage: expected[i + 1 :] for i, stage in enumerate(expected[:-1])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_g_r", {"a", "a>g", "a>g>r", "a>r", "g", "g>r", "r"}),
        ("a>g,r;g>r", {"a", "a>g", "a>g>r", "a>r"}),
        ("a>g>r;a>r", {"a", "a>g", "a>g>r", "a>r"}),
        ("a > g ; g > r;", {"a", "a>g", "a>g>r"}),
        ("a>g;a>r", {"a", "a>g", "a>r"}),
        ("a,g>r", {"a", "a>r", "g", "g>r"}),
        ("a>g,r;g>r;g", {"a", "a>g", "a>g>r", "a>r", "g", "g>r"}),
        ("a>g,r;g>r;g;r", {"a", "a>g", "a>g>r", "a>r", "g", "g>r", "r"}),
        ("a>g;r", {"a", "a>g", "r"}),
        ("a,r", {"a", "r"}),
        ("a>r;a>r", {"a", "a>r"}),
    ],
)
def test_graph_text_unrolls_to_exactly_its_paths(text: str, expected: set[str]) -> None:
    assert paths(text) == expected


def test_graph_order_is_topological_and_otherwise_that_of_the_costs() -> None:
    assert parse_topology("r>g;r>a", AGR).stages == ("resnet50", "alexnet", "googlenet")
    assert parse_topology("g>r;a>r", AGR).stages == AGR
    assert parse_topology("r>a", AGR).stages == ("resnet50", "alexnet")


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        ("", AGR, ("stages such as 'a_g_r'", "none")),
        ("  ", AGR, ("found none",)),
        (";;", AGR, ("found none",)),
        ("a_x_r", AGR, ("alexnet, googlenet, resnet50", "found 'x'")),
        ("a_g_", AGR, ("nothing where a stage should stand",)),
        ("a__r", AGR, ("nothing where a stage should stand",)),
        ("a>", AGR, ("nothing where a stage should stand",)),
        ("a>g,,r", AGR, ("nothing where a stage should stand",)),
        ("a>vgg", AGR, ("alexnet, googlenet, resnet50", "found 'vgg'")),
        ("cifar_resnet20", ("cifar_resnet200", "cifar_resnet201"), ("fits cifar_resnet200, cifar_resnet201",)),
        ("a_res", ("alexnet", "resnet18", "resnet50"), ("'res', which fits resnet18, resnet50",)),
        ("a>res", ("alexnet", "resnet18", "resnet50"), ("'res', which fits resnet18, resnet50",)),
        ("exit", EXITS, ("'exit', which fits resnet.exit1, resnet.exit2, resnet.exit10",)),
        ("a_g_a", AGR, ("every stage once", "'alexnet' twice")),
        ("a>g,g", AGR, ("'googlenet' twice",)),
        ("a>a", AGR, ("without a cycle", "alexnet>alexnet")),
        ("a>g;g>a", AGR, ("without a cycle", "alexnet>googlenet>alexnet")),
        ("a>g>r>g", AGR, ("without a cycle", "googlenet>resnet50>googlenet")),
        ("_".join("abcdefghijklm"), tuple("abcdefghijklm"), ("at most 4096 paths", "8191", "drop 1 of the 13")),
    ],
)
def test_a_topology_that_cannot_be_is_one_clear_line(text: str, names: tuple[str, ...], said: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        parse_topology(text, names)
    message = str(caught.value)
    assert message.startswith("topology '")
    assert "\n" not in message
    for part in said:
        assert part in message


def test_a_cycle_is_reported_in_the_direction_of_its_jumps() -> None:
    names = tuple("abcde")
    with pytest.raises(InputError, match=r"found b>c>d>b|found c>d>b>c|found d>b>c>d"):
        parse_topology("a>b;b>c;c>d;d>b,e", names)


def test_a_stage_that_no_entry_leads_to_is_refused() -> None:
    with pytest.raises(InputError, match="reachable from a, found no way to 'g'"):
        Topology(("a", "g", "r"), {"a": ("r",), "g": ("r",)}, ("a",))


@pytest.mark.parametrize("jumps", [{"g": ("a",)}, {"a": ("a",)}, {"a": ("x",)}, {"x": ("a",)}])
def test_a_jump_that_does_not_go_forward_is_refused(jumps: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(InputError, match="jumps forward in the order a, g"):
        Topology(("a", "g"), jumps, ("a", "g"))


def test_forty_stages_are_answered_at_once_and_what_is_advised_works() -> None:
    names = tuple(f"stage{i:02}" for i in range(40))
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        parse_topology("_".join(names), names)
    # Counting takes milliseconds; listing the paths would take years.
    assert time.perf_counter() - start < 2
    assert str(2**40 - 1) in str(caught.value)
    assert "drop 28 of the 40 stages" in str(caught.value)
    assert len(paths("_".join(names[:12]), names)) <= MAX_PATHS


def test_as_many_paths_as_allowed_are_unrolled() -> None:
    names = tuple("abcdefghijkl")
    routes = unroll(parse_topology("_".join(names), names), prices(names))
    assert len(routes.paths) == len(set(routes.paths)) == 2**12 - 1


def test_a_long_plain_chain_is_no_deeper_than_python() -> None:
    names = tuple(f"s{i:04}" for i in range(1500))
    topology = Topology(names, {a: (b,) for a, b in itertools.pairwise(names)}, names[:1])
    costs = Costs({name: StageCost(name, 1.0, 0.0) for name in names}, "ms")
    assert unroll(topology, costs).cost.tolist() == list(range(1, 1501))


def test_what_paths_cost_by_hand() -> None:
    routes = unroll(parse_topology("a_g_r", AGR), prices(AGR))
    assert routes.stages == AGR
    assert routes.unit == "ms"
    cost = dict(zip(routes.paths, routes.cost.tolist(), strict=True))
    assert cost == {(0,): 1, (0, 1): 11, (0, 1, 2): 111, (0, 2): 101, (1,): 10, (1, 2): 110, (2,): 100}
    assert routes.alone is not None
    assert routes.alone.tolist() == [1, 10, 100]
    np.testing.assert_array_equal(routes.spent[routes.index[0, 2]], [1, 0, 100])


def test_a_trunk_is_paid_for_once_and_a_model_may_stand_in_front() -> None:
    costs = Costs(
        {
            "small": StageCost("small", 1.0, 0.0),
            "net.e1": StageCost("net", 2.0, 0.25),
            "net.e2": StageCost("net", 4.0, 0.5),
        },
        "ms",
    )
    routes = unroll(parse_topology("s_e1_e2", list(costs.stages)), costs)
    cost = dict(zip(routes.paths, routes.cost.tolist(), strict=True))
    assert cost[0, 1, 2] == 1 + 2.25 + 4.5
    assert cost[0, 2] == 1 + (2 + 4 + 0.5)
    assert cost[1, 2] == 2.25 + 4.5
    assert routes.alone is not None
    assert routes.alone.tolist() == [1, 2.25, 6.5]


@given(st.integers(1, 7), st.data())
@settings(max_examples=60, deadline=None)
def test_unrolling_is_every_walk_of_the_graph(k: int, data: st.DataObject) -> None:
    names = tuple("abcdefg"[:k])
    pairs = list(itertools.combinations(range(k), 2))
    kept = [pair for pair in pairs if data.draw(st.booleans())]
    text = ";".join([*(f"{names[u]}>{names[v]}" for u, v in kept), *names])
    routes = unroll(parse_topology(text, names), prices(names))
    subsets = (c for size in range(1, k + 1) for c in itertools.combinations(range(k), size))
    walks = {c for c in subsets if all(step in kept for step in itertools.pairwise(c))}
    place = [names.index(stage) for stage in routes.stages]
    assert {tuple(place[i] for i in path) for path in routes.paths} == walks
    assert len(routes.paths) == len(walks)
    for path in routes.paths:
        assert len(path) == 1 or routes.index[path[:-1]] < routes.index[path]
        assert routes.cost[routes.index[path]] == sum(10.0 ** place[i] for i in path)
