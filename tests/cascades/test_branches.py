"""Networks cut into segments: the plain network's answers, each layer run once, and exits that are run as stages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.cascades.graph.routing import Routes, coins
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.fit import FitSettings
from offramp.cascades.learning.points import fit_points
from offramp.cascades.models.zoo import BRANCHED, ZOO, StageModel, load_cascade, load_plain, load_stage, load_stages
from offramp.cascades.runtime.decide import live_cascade
from offramp.features.errors import InputError
from offramp.features.evidence import EvidenceSettings
from offramp.features.outputs import Outputs, Stage

torch = pytest.importorskip("torch", reason="networks need torch: install offramp[models]")

from torch import nn  # noqa: E402

from offramp.cascades.models.branches import (  # noqa: E402
    BranchedNet,
    Branching,
    Exit,
    blocks,
    choose_cuts,
    parse_exits,
    pooled,
    trace,
)
from offramp.cascades.models.weights import save_weights  # noqa: E402
from offramp.cascades.runtime.networks import networks  # noqa: E402
from offramp.cascades.runtime.queue import Queue  # noqa: E402
from offramp.cascades.runtime.run import Runtime  # noqa: E402

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

SMALL = (3, 32, 32)


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = ZOO[name].build(10)
    for layer in module.modules():  # batch norms that do something
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2.0)
    return module.eval()


def shape_of(name: str) -> tuple[int, ...]:
    how = ZOO[name].preprocessing
    assert how.crop is not None
    return how.channels, *how.crop


# --- cuts


@pytest.mark.parametrize("name", ["cifar_alexnet", "cifar_googlenet", "cifar_resnet20", "lenet", "branchy_alexnet"])
def test_the_last_exit_is_the_plain_network_bit_for_bit(name: str) -> None:
    module, shape = built(name), shape_of(name)
    x = torch.randn(3, *shape)
    with torch.inference_mode():
        wanted = module(x.clone())
        cuts = [cut for _, cut in trace(module, shape).cuts]
        for cut in cuts:  # wherever the graph may be cut, the tensor there is all that the rest needs
            net = BranchedNet(module, [Exit(cut.layer)], shape, 10).eval()
            assert torch.equal(net(x.clone())[-1], wanted)
        net = BranchedNet(module, [Exit(cut.layer) for cut in choose_cuts(trace(module, shape), "blocks")], shape, 10)
        said = net.eval()(x.clone())
    assert torch.equal(said[-1], wanted)
    assert [tuple(z.shape) for z in said] == [(3, 10)] * len(net)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "mobilenet_v3_small", "vit_b_32"])
def test_networks_of_torchvision_are_cut_as_they_are(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    side = 224 if name.startswith("vit") else 64
    torch.manual_seed(0)
    module = models.get_model(name, weights=None, num_classes=7, **more).eval()
    net = BranchedNet(module, parse_exits(trace(module, (3, side, side)), "3", "linear"), (3, side, side), 7).eval()
    assert len(net) == 4
    x = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        assert torch.equal(net(x.clone())[-1], module(x.clone()))


def test_a_network_of_timm_with_more_inputs_is_cut_too() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=5).eval()
    cuts = choose_cuts(trace(module, (3, 224, 224)), 2)
    net = BranchedNet(module, [Exit(cut.layer) for cut in cuts], (3, 224, 224), 5).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(net(x.clone())[-1], module(x.clone()))


def test_every_layer_is_run_once_for_all_exits() -> None:
    module = built("cifar_resnet20")
    net = BranchedNet(module, [Exit("layer1"), Exit("layer2.0"), Exit("layer3.1")], SMALL, 10).eval()
    runs: Counter[str] = Counter()
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda *_, name=name: runs.update([name]))
    with torch.inference_mode():
        net(torch.randn(2, *SMALL))
    assert set(runs.values()) == {1}
    assert len(runs) == 20  # 19 convolutions, shortcuts pad, one linear layer


def test_words_for_cuts() -> None:
    traced = trace(built("cifar_resnet20"), SMALL)
    every = [cut.layer for cut in choose_cuts(traced, "blocks")]
    assert every == ["relu", *(f"layer{i}.{j}" if j < 2 else f"layer{i}" for i in (1, 2, 3) for j in range(3))][:-1]
    assert [cut.layer for cut in choose_cuts(traced, "stages")] == ["layer1", "layer2", "layer3.1"]
    shares = [cut.work / traced.work for cut in choose_cuts(traced, "3")]
    assert np.abs(np.array(shares) - [0.25, 0.5, 0.75]).max() < 0.06
    assert choose_cuts(traced, 9) == blocks(traced)
    for k in range(1, 10):  # each by itself as near as it can be to its share, unless another needs the place
        works = [cut.work for cut in choose_cuts(traced, k)]
        assert works == sorted(set(works))


def test_work_adds_up_to_the_networks() -> None:
    from offramp.cascades.models.probing import multiply_adds

    for name in ("cifar_googlenet", "cifar_resnet20"):
        module = built(name)
        traced = trace(module, SMALL)
        assert traced.work == multiply_adds(module, SMALL)
        net = BranchedNet(module, [Exit(cut.layer) for cut in blocks(traced)], SMALL, 10)
        until, shape = 0, SMALL
        for i, cut in enumerate(net.cuts):
            until += multiply_adds(net.piece(i), shape)
            shape = cut.shape
            assert until == cut.work


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (["layer9"], "layer3"),
        (["layer1.0.conv1"], "one tensor is all that the rest needs"),
        (["linear"], "before the classifier"),
        (["layer1", "layer1.2"], "once"),
        ("99", "1 to 9"),
        ("0", "1 to 9"),
    ],
)
def test_cuts_that_cannot_be(wanted: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        choose_cuts(trace(built("cifar_resnet20"), SMALL), wanted)


def test_a_network_whose_way_depends_on_its_input_is_refused() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Any) -> Any:
            return self.conv(x) if x.sum() > 0 else x

    with pytest.raises(InputError, match=r"torch\.fx"):
        trace(Fickle(), SMALL)


def test_heads_as_they_are_asked_for() -> None:
    traced = trace(built("cifar_resnet20"), SMALL)
    found = parse_exits(traced, "layer1:2,layer2,layer3.1:0", "conv")
    assert found == (Exit("layer1", (32, 32)), Exit("layer2", (32,)), Exit("layer3.1"))
    assert parse_exits(traced, "stages", "linear") == (Exit("layer1"), Exit("layer2"), Exit("layer3.1"))


def test_averages_know_where_the_channels_are() -> None:
    x = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    np.testing.assert_allclose(pooled(x), x.mean((2, 3)))
    np.testing.assert_allclose(pooled(x.permute(0, 2, 3, 1)), x.mean((2, 3)))
    np.testing.assert_allclose(pooled(x.flatten(2).transpose(1, 2)), x.mean((2, 3)))


# --- files and stages


@pytest.mark.parametrize("name", BRANCHED)
def test_the_papers_networks_are_stages(name: str) -> None:
    stages = load_stages(name, pretrained=False)
    assert [stage.name for stage in stages] == [f"{name}.e{i + 1}" for i in range(len(BRANCHED[name][1]) + 1)]
    parameters = [stage.parameters for stage in stages]
    assert parameters == sorted(parameters)
    assert len({id(stage.place.net) for stage in stages if stage.place}) == 1
    with pytest.raises(InputError, match="exits"):
        load_stage(name, pretrained=False)


def branched_file(path: Path, gated: bool = False) -> BranchedNet:
    torch.manual_seed(1)
    exits = (Exit("features.0"), Exit("features.2", (16,)))
    net = BranchedNet(load_plain("cifar_alexnet", [str(i) for i in range(10)], None).module, exits, SMALL, 10, gated)
    about = {"architecture": "cifar_alexnet", "exits": Branching(exits, gated).text()}
    save_weights(net.eval(), path, about, half=False)
    return net


@pytest.mark.parametrize("gated", [False, True])
def test_a_file_says_where_its_exits_are(tmp_path: Path, gated: bool) -> None:
    net = branched_file(tmp_path / "mine.safetensors", gated)
    stages = load_stages(f"file:{tmp_path / 'mine.safetensors'}")
    assert [stage.name for stage in stages] == ["mine.e1", "mine.e2", "mine.e3"]
    x = torch.randn(2, *SMALL)
    with torch.inference_mode():
        for wanted, stage in zip(net(x.clone()), stages, strict=True):
            assert torch.equal(stage.module(x.clone()), wanted)
    assert stages[0].place is not None
    assert len(stages[0].place.net.gates) == 2 * gated


def test_exits_that_nobody_wrote_are_refused(tmp_path: Path) -> None:
    net = branched_file(tmp_path / "net.safetensors")
    for text in ("{", "[]", '{"exits": [{"layer": "x"}], "gated": false}'):
        about = {"architecture": "cifar_alexnet", "exits": text}
        save_weights(net, tmp_path / "bad.safetensors", about, half=False)
        with pytest.raises(InputError, match="exits as"):
            load_stages(f"file:{tmp_path / 'bad.safetensors'}")


# --- run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small network in front of one with three exits, random, and policies fitted on what they say."""
    path = tmp_path_factory.mktemp("net") / "mine.safetensors"
    branched_file(path)
    small = load_stage("a=cifar_alexnet", pretrained=False)
    exits = load_cascade([f"file:{path}"])
    models: tuple[StageModel, ...] = (small, *exits)
    n = 240
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8))
    logits = []
    with torch.inference_mode():
        x = models[0].preprocessing.normalise(pixels)
        logits = [3 * model.module(x.clone()).numpy() for model in models]
    labels = np.where(np.random.default_rng(1).random(n) < 0.6, logits[-1].argmax(1), logits[1].argmax(1))
    # as the networks below say it
    stages = tuple(Stage(model.name, logits=z / 3) for model, z in zip(models, logits, strict=True))
    return models, pixels, Outputs(stages, labels.astype(np.int64), np.arange(n), "fit", 10)


def routes_of(models: Any, topology: str) -> Routes:
    from offramp.eval.extract import counted_cost

    costs = {model.name: counted_cost(model) for model in models}
    from offramp.cascades.graph.costs import Costs

    return unroll(parse_topology(topology, tuple(costs)), Costs(costs, "M"))


@pytest.mark.parametrize("topology", ["e1_e2_e3", "a_e1_e2_e3", "a>e2;e1>e2;e1>e3;e2>e3;e1;a"])
def test_exits_are_routed_as_from_stored_outputs_and_trunks_run_once(world: Any, topology: str) -> None:
    models, pixels, outputs = world
    routes = routes_of(models, topology)
    chosen = {model.name: model for model in models}
    running = networks([chosen[name] for name in routes.stages], torch.device("cpu"))
    there = outputs.of(routes.stages)
    fitted, _ = fit_points(there, None, routes, 6, FitSettings(("constant", "threshold", "value")))
    key = models[0].preprocessing.pixels_key
    several = 0
    for point, routing in enumerate(fitted.route(Outputs(there.stages, there.labels, there.ids, "test", 10))):
        live = live_cascade(fitted, point)
        plan = live.drawn(coins(there.ids, fitted.coin))
        served = Runtime(running, live, torch.device("cpu")).run({key: pixels}, plan)
        np.testing.assert_array_equal(served.path, routing.path)
        np.testing.assert_array_equal(served.answer, routing.answer)
        # an example's trunk is run up to its last exit, each segment once
        ran: Counter[int] = Counter()
        for _, segment, size in served.segments:
            ran[segment] += size
        exits = np.array(
            [max((running[s].exit for s in routes.paths[q] if running[s].trunk), default=-1) for q in served.path]
        )
        assert [ran[i] for i in range(3)] == [int((exits >= i).sum()) for i in range(3)]
        several += len(set(served.path.tolist())) > 1
    assert several > 3


@pytest.mark.parametrize("request_size", [1, 7])
def test_the_queue_runs_exits_too(world: Any, request_size: int) -> None:
    models, pixels, outputs = world
    routes = routes_of(models, "a_e1_e2_e3")
    running = networks(models, torch.device("cpu"))
    fitted, _ = fit_points(outputs, None, routes, 4, FitSettings(("constant", "threshold", "value")))
    key = models[0].preprocessing.pixels_key
    for point in range(0, len(fitted.names), 3):
        live = live_cascade(fitted, point)
        plan = np.arange(len(pixels)) % len(live.plans)
        wanted = Runtime(running, live, torch.device("cpu")).run({key: pixels}, plan)
        with Queue(running, live, torch.device("cpu"), (8,) * 4, patience=0.01) as queue:
            futures = [
                queue.submit({key: pixels[i : i + request_size]}, plan[i : i + request_size])
                for i in range(0, len(pixels), request_size)
            ]
            served = [future.result(60) for future in futures]
        np.testing.assert_array_equal(np.concatenate([each.answer for each in served]), wanted.answer)
        np.testing.assert_array_equal(np.concatenate([each.path for each in served]), wanted.path)


@pytest.fixture(scope="module")
def gated_world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network with three exits, two of which have a gate, random, and what exits and gates say, as it is stored."""
    path = tmp_path_factory.mktemp("gated") / "mine.safetensors"
    branched_file(path, gated=True)
    models = load_cascade([f"file:{path}"])
    pixels = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (240, 32, 32, 3), np.uint8))
    stages, state = [], models[0].preprocessing.normalise(pixels)
    with torch.inference_mode():
        for model in models:
            assert model.place is not None
            net, place = model.place.net, model.place.exit
            state = net.segment(place, state)
            measured = {"gate": net.gate(place, state).numpy()} if place < len(net.gates) else {}
            stages.append(Stage(model.name, logits=net.head(place, state).numpy(), measured=measured))
    last = np.asarray(stages[-1].logits).argmax(1)
    labels = np.where(np.random.default_rng(1).random(240) < 0.6, last, np.asarray(stages[1].logits).argmax(1))
    return models, pixels, Outputs(tuple(stages), labels.astype(np.int64), np.arange(240), "fit", 10)


@pytest.mark.parametrize("answer", ["last", "fused"])
def test_gates_decide_live_as_from_stored_outputs(gated_world: Any, answer: str) -> None:
    models, pixels, outputs = gated_world
    routes = routes_of(models, "e1_e2_e3")
    cpu = torch.device("cpu")
    running = networks(models, cpu, gates=True)
    how = FitSettings(("constant", "gate"), answer, evidence=EvidenceSettings(measured=("gate",)))
    fitted, _ = fit_points(outputs, None, routes, 6, how)
    key = models[0].preprocessing.pixels_key
    several = 0
    for point, routing in enumerate(fitted.route(outputs)):
        live = live_cascade(fitted, point)
        plan = np.arange(len(pixels)) % len(live.plans)
        if len(live.plans) > 1:
            plan = live.drawn(coins(outputs.ids, fitted.coin))
        served = Runtime(running, live, cpu).run({key: pixels}, plan)
        np.testing.assert_array_equal(served.path, routing.path)
        np.testing.assert_array_equal(served.answer, routing.answer)
        several += "gate" in fitted.names[point][0] and len(set(served.path.tolist())) > 1
        with Queue(running, live, cpu, (8,) * 3, patience=0.01) as queue:
            queued = [queue.submit({key: pixels[i : i + 60]}, plan[i : i + 60]) for i in range(0, 240, 60)]
            np.testing.assert_array_equal(np.concatenate([each.result(60).path for each in queued]), served.path)
    assert several


def test_gates_stand_behind_the_logits_of_exits_that_have_one(gated_world: Any) -> None:
    models, pixels, outputs = gated_world
    with torch.inference_mode():
        for gates in (False, True):
            for network, stage in zip(networks(models, torch.device("cpu"), gates=gates), outputs.stages, strict=True):
                said = network.said(network.inputs(pixels)).numpy()
                wide = gates and "gate" in stage.measured
                assert said.shape == (240, 11 if wide else 10)
                np.testing.assert_array_equal(said[:, :10], stage.logits)
                if wide:
                    np.testing.assert_array_equal(said[:, 10], stage.measured["gate"])
