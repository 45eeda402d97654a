"""From names to stages: conformance over the zoo, published weights, files that are broken or worse, no network."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.cascades.files.embedded import embedded_path
from offramp.cascades.models import zoo
from offramp.cascades.models.loaders import imagenet_classes, imagenet_synsets
from offramp.cascades.models.probing import (
    FREE,
    Work,
    checked_logits,
    count_work,
    multiply_adds,
    pick_device,
    pooled_of,
)
from offramp.cascades.models.weights import put_weights, read_weights, save_weights, weights_digest
from offramp.cascades.models.zoo import ALIASES, CIFAR_CLASSES, ZOO, load_cascade, load_stage, short_name
from offramp.features.errors import InputError

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

torch = pytest.importorskip("torch", reason="networks need torch")
pytest.importorskip("torchvision", reason="networks need torchvision")
timm = pytest.importorskip("timm", reason="networks need timm")
nn = torch.nn

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
RESNETS = DATA / "cifar10-resnets"
TINY = "test_resnet"
"""A network of timm with half a million parameters."""

SMALL = "shufflenet_v2_x0_5"
"""The smallest one of torchvision."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """One image at a time is no work for two, and threads that wait for each other make a busy machine crawl."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing can be looked up, and no cache of this machine is seen."""
    from huggingface_hub import constants

    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror("there is no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """saved(name, classes=…): random weights of a zoo network in a folder, as cascades.train leaves them."""

    def make(name: str, classes: tuple[str, ...] = CIFAR_CLASSES, folder: str = "weights") -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / f"{name}.safetensors"
        torch.manual_seed(len(name))
        module = ZOO[name].build(len(classes))
        save_weights(module, path, {"architecture": name, "classes": "\n".join(classes)})
        return path

    return make


# --- the zoo


@pytest.mark.parametrize("name", ZOO)
def test_every_network_of_the_zoo_is_a_stage(name: str) -> None:
    stage = load_stage(name, pretrained=False)
    assert stage.name == name.removeprefix("cifar_")
    assert stage.classes == ZOO[name].classes
    assert stage.parameters == sum(p.numel() for p in ZOO[name].build(10).parameters())
    assert not stage.module.training
    image = Image.fromarray(np.zeros((32, 32, 3), np.uint8))
    crops = torch.from_numpy(np.stack([stage.preprocessing.cropped(image)] * 2))
    with torch.inference_mode():
        logits, pooled = pooled_of(stage.module, stage.preprocessing.normalise(crops))
    assert logits.shape == (2, 10)
    assert pooled.shape[0] == 2
    last = [layer for layer in stage.module.modules() if isinstance(layer, nn.Linear)][-1]
    assert torch.equal(last(pooled), logits)


@pytest.mark.parametrize("name", ZOO)
def test_weights_come_back_as_they_were_saved(name: str, saved: Callable[..., Path]) -> None:
    path = saved(name)
    by_folder, by_file = load_stage(name, path.parent), load_stage(name, path)
    by_path = load_stage(f"file:{path}")
    held = read_weights(path).tensors
    assert all(torch.equal(value, held[key]) for key, value in by_folder.module.state_dict().items())
    assert by_folder.weights_digest == by_file.weights_digest == by_path.weights_digest
    assert by_folder.weights_digest != load_stage(name, pretrained=False).weights_digest
    assert by_folder.origin == str(path)
    assert by_path.name == name.replace(".", "-")


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    digests = {load_stage("cifar_resnet20", pretrained=False).weights_digest for _ in range(2)}
    assert len(digests) == 1
    assert torch.equal(torch.rand(3), expected)


def test_published_checkpoints_load_as_they_are_and_are_as_good_as_known() -> None:
    if not RESNETS.is_dir():
        pytest.skip(f"{RESNETS.name} is not there: published checkpoints NOT TESTED")
    stages = load_cascade([f"cifar_resnet{n}" for n in (20, 32, 44, 56)], RESNETS)
    assert [stage.name for stage in stages] == ["resnet20", "resnet32", "resnet44", "resnet56"]
    assert [round(stage.parameters / 1e6, 2) for stage in stages] == [0.27, 0.46, 0.66, 0.85]
    with np.load(DATA / "cifar10-jpeg" / "test.npz", allow_pickle=False) as file:
        at, jpeg, labels = file["offsets"], file["jpeg"], file["labels"][:500]
        assert tuple(file["classes"]) == stages[0].classes
    images = [Image.open(io.BytesIO(jpeg[at[i] : at[i + 1]].tobytes())) for i in range(500)]
    way = stages[0].preprocessing
    x = way.normalise(torch.from_numpy(np.stack([way.cropped(image) for image in images])))
    with torch.inference_mode():
        answers = stages[0].module(x).argmax(1).numpy()
    assert 0.78 <= (answers == labels).mean() <= 0.84


def test_the_embedded_weights_are_where_they_are_looked_for() -> None:
    files = sorted(embedded_path("weights").glob("*.safetensors"))
    if not files:
        pytest.skip("no weights are embedded yet: NOT TESTED")
    for path in files:
        assert zoo.load_stages(path.stem)[0].classes in (CIFAR_CLASSES, zoo.MNIST_CLASSES)


# --- where a file is looked for


def test_published_names_and_torch_files_are_found(tmp_path: Path) -> None:
    module = ZOO["cifar_resnet20"].build(10)
    for file, wrap in (
        ("resnet20-0123abcd.th", lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}),
        ("cifar_resnet20.pth", lambda state: state),
        ("cifar_resnet20.pt", lambda state: {"model": {f"_orig_mod.{k}": v for k, v in state.items()}, "epoch": 3}),
    ):
        folder = tmp_path / file
        folder.mkdir()
        torch.save(wrap(module.state_dict()), folder / file)
        assert load_stage("cifar_resnet20", folder).weights_digest == weights_digest(module)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cifar_resnet20\.safetensors.*resnet20-\*\.th.*https://.*found none"):
        load_stage("cifar_resnet20", tmp_path)
    with pytest.raises(InputError, match=r"cascades\.train --models cifar_alexnet.*no such folder"):
        load_stage("cifar_alexnet", tmp_path / "nowhere")
    for name in ("resnet20-a.th", "resnet20-b.th"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"found resnet20-a\.th, resnet20-b\.th"):
        load_stage("cifar_resnet20", tmp_path)


def test_torchs_cache_is_used_and_its_absence_explained(tmp_path: Path) -> None:
    from torchvision import models

    weights = models.get_model_weights(SMALL).DEFAULT
    file = weights.url.rsplit("/", 1)[1]
    with pytest.raises(InputError) as caught:
        load_stage(f"torchvision:{SMALL}")
    said = str(caught.value)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    assert all(part in said for part in (file, str(folder), weights.url, "TORCH_HOME", "there is no network here"))
    module = models.get_model(SMALL)
    torch.save(module.state_dict(), folder / file)
    stage = load_stage(f"torchvision:{SMALL}")
    assert stage.weights_digest == weights_digest(module)
    assert weights.url in stage.origin
    assert len(stage.classes) == 1000
    (folder / file).write_bytes((folder / file).read_bytes()[:1000])
    with pytest.raises(InputError, match="broken"):
        load_stage(f"torchvision:{SMALL}")


def in_cache(tmp_path: Path, repository: str, files: dict[str, bytes]) -> None:
    """Files of a repository as huggingface_hub would have left them."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)


def tiny_weights(module: Any) -> bytes:
    from safetensors.torch import save

    return save(module.state_dict())  # type: ignore[no-any-return]


def test_hugging_faces_cache_is_used_and_its_absence_explained(tmp_path: Path) -> None:
    repository = timm.get_pretrained_cfg(TINY).hf_hub_id
    with pytest.raises(InputError) as caught:
        load_stage(f"timm:{TINY}")
    said = str(caught.value)
    hub = str(tmp_path / "hub")
    assert all(part in said for part in ("model.safetensors", repository, hub, "HF_HOME", "there is no network here"))
    module = timm.create_model(TINY)
    in_cache(tmp_path, repository, {"model.safetensors": tiny_weights(module)})
    stage = load_stage(f"timm:{TINY}")
    assert stage.weights_digest == weights_digest(module)
    assert stage.name == TINY
    assert repository in stage.origin


def test_offline_by_wish_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        load_stage(f"timm:{TINY}")


def test_a_repository_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json of someone/birds"):
        load_stage("timm:hf-hub:someone/birds")
    module = timm.create_model(TINY, num_classes=3)
    said = {"architecture": TINY, "num_classes": 3, "label_names": ["jay", "tit", "owl"]}
    said["pretrained_cfg"] = {"input_size": [3, 64, 64], "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.25] * 3}
    files = {"config.json": json.dumps(said).encode(), "model.safetensors": tiny_weights(module)}
    in_cache(tmp_path, "someone/birds", files)
    stage = load_stage("timm:hf-hub:someone/birds")
    assert stage.name == "birds"
    assert stage.classes == ("jay", "tit", "owl")
    assert (stage.preprocessing.crop, stage.preprocessing.std) == ((64, 64), (0.25,) * 3)
    assert stage.weights_digest == weights_digest(module)


# --- names


def test_what_a_stage_is_called(tmp_path: Path) -> None:
    called = {
        "torchvision:alexnet": "alexnet",
        "torchvision:resnet50@IMAGENET1K_V1": "resnet50",
        "resnet18": "resnet18",
        "timm:resnet18.a1_in1k": "resnet18",
        "timm:hf-hub:timm/vit_tiny.in1k@main": "vit_tiny",
        "cifar_resnet110": "resnet110",
        "file:some/where/my net.v2.pth@cifar_resnet20": "my-net-v2",
        "big=torchvision:resnet152": "big",
        "file:a=b.pth@cifar_alexnet": "a-b",
    }
    assert {spec: short_name(spec)[0] for spec in called} == called


@pytest.mark.parametrize("spec", ["resnt18", "", ":", "torchvision:", "x=", "hub:resnet18", "file"])
def test_an_unknown_name_is_answered_with_the_names_there_are(spec: str) -> None:
    with pytest.raises(InputError, match=r"cifar_resnet20.*alexnet"):
        load_stage(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("torchvision:alexnot", "near it: alexnet"),
        ("torchvision:resnet50@V9", "IMAGENET1K_V1 or IMAGENET1K_V2"),
        ("torchvision:vgg16@IMAGENET1K_FEATURES", "whole classifier"),
        ("torchvision:fcn_resnet50", "classification model"),
        ("timm:resnt18", "near it: resnet18"),
        ("timm:resnet18.nowhere", "resnet18.a1_in1k"),
        ("timm:hf-hub:not a name", "OWNER/NAME"),
        ("resnt18", "is 'resnet18' meant"),
    ],
)
def test_a_wrong_name_is_told_what_is_near(spec: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_stage(spec, pretrained=False)
    assert said in str(caught.value)


def test_plain_names_are_torchvisions() -> None:
    from torchvision import models

    assert set(ALIASES) <= set(models.list_models(module=models))
    assert len(ALIASES) == len(set(ALIASES))


# --- a cascade


def test_stages_share_one_list_of_classes(saved: Callable[..., Path]) -> None:
    folder = saved("cifar_alexnet").parent
    saved("cifar_googlenet")
    stages = load_cascade(["cifar_alexnet", "g=cifar_googlenet"], folder)
    assert [stage.name for stage in stages] == ["alexnet", "g"]
    saved("cifar_googlenet", ("plane", *CIFAR_CLASSES[1:]))
    with pytest.raises(InputError, match="class 0 called 'airplane' by one and 'plane' by the other"):
        load_cascade(["cifar_alexnet", "cifar_googlenet"], folder)
    saved("cifar_googlenet", CIFAR_CLASSES[:9])
    with pytest.raises(InputError, match="10 classes and 9"):
        load_cascade(["cifar_alexnet", "cifar_googlenet"], folder)
    with pytest.raises(InputError, match="10 classes and 1000"):
        load_cascade(["cifar_alexnet", f"timm:{TINY}"], pretrained=False)


def test_names_stand_once() -> None:
    with pytest.raises(InputError, match=r"NEWNAME=MODEL.*both called 'alexnet'"):
        load_cascade(["alexnet", "cifar_alexnet"], pretrained=False)
    with pytest.raises(InputError, match="at least one"):
        load_cascade([])


def test_timms_imagenet_and_torchvisions_are_one_list() -> None:
    stages = load_cascade([f"timm:{TINY}", f"torchvision:{SMALL}"], pretrained=False)
    assert stages[0].classes == stages[1].classes == imagenet_classes()
    assert len(set(imagenet_classes())) == len(set(imagenet_synsets())) == 1000
    assert (imagenet_synsets()[0], imagenet_classes()[0]) == ("n01440764", "tench")


def test_preprocessing_is_the_weights_own() -> None:
    v1 = load_stage(f"torchvision:{SMALL}", pretrained=False).preprocessing
    assert (v1.resize, v1.crop, v1.interpolation) == (256, (224, 224), "bilinear")
    tiny = load_stage(f"timm:{TINY}", pretrained=False).preprocessing
    config = timm.data.resolve_data_config({}, model=timm.create_model(TINY))
    assert (tiny.crop, tiny.mean) == (tuple(config["input_size"][1:]), tuple(config["mean"]))


def test_googlenet_answers_with_one_tensor_and_trains_no_aux_heads() -> None:
    stage = load_stage("googlenet", pretrained=False)
    assert not any(key.startswith("aux") for key in stage.module.state_dict())
    assert round(stage.parameters / 1e6, 2) == 6.62


# --- files of weights


def test_a_file_of_ones_own_network(tmp_path: Path) -> None:
    module = timm.create_model(TINY, num_classes=3)
    path = tmp_path / "birds.safetensors"
    save_weights(module, path, {"architecture": f"timm:{TINY}", "classes": "jay\ntit\nowl"})
    stage = load_stage(f"file:{path}")
    assert (stage.name, stage.classes) == ("birds", ("jay", "tit", "owl"))
    assert stage.weights_digest == weights_digest(module)
    held = {"state_dict": module.state_dict(), "classes": ["jay", "tit", "owl"]}
    torch.save(held, tmp_path / "b@rds.pth")
    assert load_stage(f"file:{tmp_path / 'b@rds.pth'}@timm:{TINY}").classes == ("jay", "tit", "owl")
    with pytest.raises(InputError, match="@ARCHITECTURE"):
        load_stage(f"file:{tmp_path / 'b@rds.pth'}")
    save_weights(module, path, {"architecture": "nonsense"})
    with pytest.raises(InputError, match=r"an architecture.*found 'nonsense'"):
        load_stage(f"file:{path}")


@pytest.mark.parametrize("kind", ["int", "complex", "sparse"])
def test_weights_of_another_type_are_told_by_name(kind: str, tmp_path: Path) -> None:
    weights = dict(ZOO["lenet"].build(10).state_dict())
    name = "classifier.1.weight"
    made = {"int": lambda x: x.int(), "complex": lambda x: x.to(torch.complex64), "sparse": lambda x: x.to_sparse()}
    weights[name] = made[kind](weights[name])
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load_stage(f"file:{tmp_path / 'w.pth'}@lenet")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_may_be_floats_of_any_width_and_counters_with_them(kind: Any) -> None:
    net, other = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    put_weights(net, {name: value.to(kind) for name, value in other.state_dict().items()}, "weights", "here")
    assert net[0].weight.dtype == torch.float32
    assert torch.equal(net[0].weight, other[0].weight.to(kind).float())
    assert net[1].num_batches_tracked.dtype == torch.int64


def test_tensors_of_other_kinds_or_layouts_are_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    net.register_buffer("index", torch.arange(3))
    own = net.state_dict()
    weight = own["0.weight"]
    bad = {
        "0.weight": [
            (weight.long(), r"0\.weight of torch\.int64 in place of torch\.float32"),
            (weight > 0, r"0\.weight of torch\.bool"),
            (weight.to(torch.complex64), r"0\.weight of torch\.complex64"),
            (weight.to(torch.float8_e4m3fn), r"0\.weight of torch\.float8_e4m3fn"),
            (weight.to_sparse(), r"0\.weight stored as torch\.sparse_coo"),
            (weight.to("meta"), r"0\.weight stored as a shape without numbers"),
        ],
        "index": [(own["index"].float(), r"index of torch\.float32 in place of torch\.int64")],
        "1.num_batches_tracked": [
            (torch.tensor(1j), r"num_batches_tracked of torch\.complex64 in place of torch\.int64"),
            (torch.tensor(1).to_sparse(), r"num_batches_tracked stored as torch\.sparse_coo"),
        ],
    }
    for name, cases in bad.items():
        for value, said in cases:
            with pytest.raises(
                InputError, match=f"here: expected weights, found {'1.' if name[0] == '1' else ''}{said}"
            ):
                put_weights(net, {**own, name: value}, "weights", "here")
    put_weights(net, {**own, "index": own["index"].int()}, "weights", "here")


def test_weights_of_torchvision_for_other_classes(tmp_path: Path) -> None:
    from torchvision import models

    module = models.get_model(SMALL, num_classes=2)
    torch.save({"state_dict": module.state_dict(), "classes": ["no", "yes"]}, tmp_path / "w.pt")
    stage = load_stage(f"file:{tmp_path / 'w.pt'}@torchvision:{SMALL}")
    assert stage.classes == ("no", "yes")
    assert stage.weights_digest == weights_digest(module)


def test_auxiliary_heads_of_a_published_googlenet_are_left_out() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    tensors = {**module.state_dict(), "aux1.fc.weight": torch.zeros(2)}
    put_weights(module, tensors, "weights", "here")
    with pytest.raises(InputError, match=r"besides these extra\.weight"):
        put_weights(module, {**tensors, "extra.weight": torch.zeros(2)}, "weights", "here")


def test_weights_of_another_architecture_are_told_what_differs(tmp_path: Path, saved: Callable[..., Path]) -> None:
    path = saved("cifar_resnet20")
    with pytest.raises(InputError, match="expected weights of cifar_alexnet, found weights of cifar_resnet20"):
        load_stage("cifar_alexnet", path)
    torch.save(ZOO["cifar_resnet20"].build(10).state_dict(), tmp_path / "r.pth")
    with pytest.raises(InputError, match=r"no layer1\.3\.conv1\.weight.* and \d+ more"):
        load_stage("cifar_resnet32", tmp_path / "r.pth")
    torch.save(ZOO["cifar_resnet32"].build(10).state_dict(), tmp_path / "r.pth")
    with pytest.raises(InputError, match=r"besides these layer1\.3\.conv1\.weight"):
        load_stage("cifar_resnet20", tmp_path / "r.pth")
    torch.save(ZOO["cifar_resnet20"].build(100).state_dict(), tmp_path / "r.pth")
    with pytest.raises(InputError, match=r"linear\.weight of shape \(100, 64\) in place of \(10, 64\)"):
        load_stage("cifar_resnet20", tmp_path / "r.pth")


class Malicious:
    """When unpickled, runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


def test_a_malicious_file_is_refused_and_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    bad = Malicious(f"touch {witness}")
    state = ZOO["cifar_resnet20"].build(10).state_dict()
    for number, held in enumerate((bad, {"state_dict": state, "args": bad}, {**state, "conv1.weight": bad})):
        for legacy in (False, True):
            path = tmp_path / f"{number}{legacy}.pth"
            torch.save(held, path, _use_new_zipfile_serialization=not legacy)
            with pytest.raises(InputError, match=r"names \w+\.system, which reading it would run; nothing was run"):
                load_stage("cifar_resnet20", path)
            with pytest.raises(InputError, match="nothing was run"):
                load_stage(f"file:{path}@timm:{TINY}")
    assert not witness.exists()


def test_a_malicious_file_in_the_caches_is_not_run_either(tmp_path: Path) -> None:
    from torchvision import models

    witness = tmp_path / "witness"
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(Malicious(f"touch {witness}"), folder / models.get_model_weights(SMALL).DEFAULT.url.rsplit("/", 1)[1])
    buffer = io.BytesIO()
    torch.save(Malicious(f"touch {witness}"), buffer)
    in_cache(tmp_path, timm.get_pretrained_cfg(TINY).hf_hub_id, {"pytorch_model.bin": buffer.getvalue()})
    for spec in (f"torchvision:{SMALL}", f"timm:{TINY}"):
        with pytest.raises(InputError, match="nothing was run"):
            load_stage(spec)
    assert not witness.exists()


def test_files_that_are_no_weights_are_refused(tmp_path: Path, saved: Callable[..., Path]) -> None:
    good = saved("cifar_alexnet").read_bytes()
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, buffer)
    contents = {
        "cut.safetensors": (good[: len(good) // 2], "safetensors file"),
        "header.safetensors": (good[:50], "safetensors file"),
        "text.safetensors": (b"These are not weights.\n" * 9, "safetensors file"),
        "cut.pth": (buffer.getvalue()[:900], "broken"),
        "text.pth": (b"version https://git-lfs.github.com/spec/v1", "begins with b'version"),
        "empty.pth": (b"", "an empty file"),
        "odd.pth": (b"\x80hello", "broken"),
    }
    for name, (content, said) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=said) as caught:
            read_weights(path)
        assert str(path) in str(caught.value)
        assert "False" not in str(caught.value), "no advice to switch the guard off"
    (tmp_path / "dir.pth").mkdir()
    with pytest.raises(InputError, match="found a folder"):
        load_stage(f"file:{tmp_path / 'dir.pth'}@cifar_alexnet")
    with pytest.raises(InputError, match="No such file"):
        load_stage(f"file:{tmp_path / 'nowhere.pth'}@cifar_alexnet")
    for held, said in (([1, 2], "a list of 2"), ({"a": 3}, "a dict with keys a"), ({}, "a dict")):
        torch.save(held, tmp_path / "x.pth")
        with pytest.raises(InputError, match=f"tensors by name.*{said}"):
            read_weights(tmp_path / "x.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"state_dict.*names torch\.nn"):
        read_weights(tmp_path / "whole.pth")


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    module.register_buffer("same", module.weight.detach())
    save_weights(module, tmp_path / "w.safetensors", {"classes": "a\nb\nc"})
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    back = read_weights(tmp_path / "w.safetensors")
    assert back.classes == ("a", "b", "c")
    assert torch.equal(back.tensors["same"], module.weight)
    with pytest.raises(InputError, match="can be written"):
        save_weights(module, tmp_path / "nowhere" / "w.safetensors", {})


def test_a_digest_tells_values_names_and_shapes_apart() -> None:
    one = nn.Linear(4, 2, bias=False)
    digest = weights_digest(one)
    assert digest == weights_digest(one)
    assert len(digest) == 64
    with torch.no_grad():
        one.weight[0, 0] += 1e-6
    assert weights_digest(one) != digest
    zeros = [nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False), nn.Sequential(nn.Linear(4, 2, bias=False))]
    for module in zeros:
        nn.init.zeros_(next(module.parameters()))
    assert len({weights_digest(module) for module in zeros}) == 3


# --- what networks answer


class Answering(nn.Module):  # type: ignore[misc, name-defined]
    """A network that answers with what it is told to."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 10)
        self.answer = answer

    def forward(self, x: Any) -> Any:
        return self.answer(self.fc(x.mean((2, 3))))


WRONG: list[tuple[Callable[[Any], Any], str]] = [
    (lambda y: (y, y), r"a tuple of 2: a tensor of shape \(1, 10\)"),
    (lambda y: [y], "a list of 1"),
    (lambda y: {"logits": y}, "a dict with keys logits"),
    (lambda y: y[:, :9], r"a tensor of shape \(1, 9\)"),
    (lambda y: y[0], r"a tensor of shape \(10,\)"),
    (lambda y: y.argmax(1), "a tensor of shape"),
    (lambda y: y.long(), "numbers of kind torch.int64"),
    (lambda _: None, "a NoneType"),
    (lambda y: y * float("nan"), "NaN or infinity in rows 0"),
    (lambda y: torch.cat([y[:, :9], y[:, :1] - float("inf")], 1), "NaN or infinity in rows 0"),
]


@pytest.mark.parametrize(("answer", "said"), WRONG)
def test_a_network_that_answers_with_anything_but_logits_is_refused(
    answer: Callable[[Any], Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ZOO, "odd", zoo.Architecture(lambda _: Answering(answer)))
    with pytest.raises(InputError, match=said):
        load_stage("odd", pretrained=False)


def test_good_logits_pass_and_bad_rows_are_named() -> None:
    good = torch.tensor([[1.0, -2.0], [3e38, 3e38], [0.0, 0.0]])
    assert checked_logits(good, 2) is good, "a sum that overflows is not an infinite logit"
    bad = good.clone()
    bad[0, 1], bad[2, 0] = float("nan"), float("-inf")
    with pytest.raises(InputError, match="stage 'a': expected finite logits, found NaN or infinity in rows 0, 2"):
        checked_logits(bad, 2, "stage 'a'")


def test_pooled_features_are_what_the_last_layer_sees() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    x = torch.randn(5, 1, 2, 2)
    with torch.inference_mode():
        logits, pooled = pooled_of(net, x)
        assert torch.equal(logits, net(x))
        assert torch.equal(pooled, net[:3](x))
    assert not any(layer._forward_hooks for layer in net.modules()), "no hook stays behind"
    for module in (nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten()), nn.Sequential(net, nn.Softmax(1))):
        with pytest.raises(InputError, match="ends in a linear layer"):
            pooled_of(module, x)


# --- work


def test_multiply_adds_by_hand() -> None:
    # 4 x 4 outputs of 5 channels, each of 3 * 3 * 2 products; then 80 -> 7
    net = nn.Sequential(nn.Conv2d(2, 5, 3, 2, 1), nn.BatchNorm2d(5), nn.Hardswish(), nn.Flatten(), nn.Linear(80, 7))
    net.train()
    one = 4 * 4 * 5 * 18 + 80 * 7
    assert multiply_adds(net, (2, 8, 8)) == multiply_adds(net, (1, 2, 8, 8)) == one
    assert multiply_adds(net, (3, 2, 8, 8)) == 3 * one
    assert net.training, "left as it was"
    assert int(net[1].num_batches_tracked) == 0
    grouped = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    assert multiply_adds(grouped, (4, 6, 6)) == 6 * 6 * 4 * 9


def test_attention_is_counted_whichever_way_it_is_run() -> None:
    """Projections in and out, 4 d² a token, and twice n² d for scores and mixing."""

    class Attention(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            tokens = x.flatten(2).transpose(1, 2)
            return self.inner(tokens, tokens, tokens, need_weights=False)[0]

    assert count_work(Attention().eval(), (8, 2, 3)) == Work(6 * 4 * 64 + 2 * 36 * 8, ())


def test_an_operation_nobody_can_count_is_reported() -> None:
    class Odd(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return torch.fft.rfft(x).real

    assert count_work(Odd(), (3, 4, 4)).uncounted == ("aten._fft_r2c",)
    with pytest.warns(UserWarning, match=r"multiply-adds of aten\._fft_r2c"):
        assert multiply_adds(Odd(), (3, 4, 4)) == 0


def test_what_is_free_exists() -> None:
    from torch.utils.flop_counter import flop_registry

    priced = {packet.__name__ for packet in flop_registry}
    assert not FREE & priced


@pytest.mark.parametrize(("name", "millions"), [("cifar_resnet20", 40.6), ("cifar_resnet56", 125.5)])
def test_multiply_adds_of_known_networks(name: str, millions: float) -> None:
    """As published for the CIFAR ResNets, 41 and 126 million (0.04 and 0.13 G)."""
    assert multiply_adds(ZOO[name].build(10), (3, 32, 32)) / 1e6 == pytest.approx(millions, rel=0.01)


# --- devices


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(InputError, match="no GPU"):
            pick_device(name)
    for name in ("gpu", "", "cuda:", "cuda:x", "CPU"):
        with pytest.raises(InputError, match="auto, cpu"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (pick_device("auto"), pick_device("cuda:1")) == (torch.device("cuda"), torch.device("cuda:1"))
    with pytest.raises(InputError, match="cuda:0 to cuda:1"):
        pick_device("cuda:2")
