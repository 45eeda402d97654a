import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from offramp.cascades.files.datafolder import keep_back, read_folder
from offramp.cascades.files.embedded import EMBEDDED, embedded_names
from offramp.features.errors import InputError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
LABELS = np.array([0, 1, 2, 1])
LOGITS = np.arange(12, dtype=np.float32).reshape(4, 3)


def costs(folder: Path, *stages: str) -> None:
    folder.mkdir(exist_ok=True)
    content = {"unit": "ms", "stages": {name: 1 + i for i, name in enumerate(stages)}}
    (folder / "costs.json").write_text(json.dumps(content))


def npz(folder: Path, name: str, **arrays: Any) -> None:
    np.savez(folder / name, **({"labels": LABELS, "a": LOGITS} | arrays))


def refused(folder: Path | str, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def right(parts: Any, stage: int) -> list[float]:
    found = []
    for outputs in parts:
        said = outputs.stages[stage]
        answer = said.answers[:, 0] if said.logits is None else said.logits.argmax(axis=1)
        found.append(round(100 * float(np.mean(answer == outputs.labels)), 2))
    return found


# embedded


def test_cifar10_is_what_its_provenance_says() -> None:
    folder = read_folder("cifar10")
    assert folder.name == "cifar10"
    assert list(folder.parts) == ["fit", "test"]
    assert list(folder.costs.stages) == ["alexnet", "googlenet", "resnet"]
    assert folder.costs.unit == "ms per image"
    costs = [folder.costs.step((), stage) for stage in folder.costs.stages]
    assert 3 < costs[1] / costs[0] < 8
    assert 15 < costs[2] / costs[0] < 35
    for part, outputs in folder.parts.items():
        assert (outputs.part, outputs.names) == (part, tuple(folder.costs.stages))
        assert (len(outputs), outputs.classes) == (10_000, 10)
    accuracy = [right(folder.parts.values(), stage) for stage in range(3)]
    assert np.round(accuracy, 1).tolist() == [[83.4, 83.4], [85.8, 85.2], [89.4, 88.8]]


def test_imagenet_is_what_its_provenance_says() -> None:
    folder = read_folder("imagenet")
    fit, test = folder.parts.values()
    assert (len(fit), len(test), fit.classes) == (25_000, 25_000, 1000)
    top1 = [np.mean(right([fit, test], stage)) for stage in range(3)]
    np.testing.assert_allclose(top1, [56.52, 69.76, 76.13], atol=0.01)
    top5 = [
        50 * sum(float((part.stages[stage].answers == part.labels[:, None]).any(axis=1).mean()) for part in (fit, test))
        for stage in range(3)
    ]
    np.testing.assert_allclose(top5, [79.07, 89.63, 92.86], atol=0.01)


def test_embedded_folders_are_small_flat_and_say_where_they_come_from() -> None:
    assert {"cifar10", "imagenet"} <= set(embedded_names())
    files = [path for path in EMBEDDED.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 30e6  # weights and outputs of seven networks
    assert all(path.parent.parent == EMBEDDED for path in files)  # as the package data of pyproject.toml has it
    for name in embedded_names():
        text = (EMBEDDED / name / "PROVENANCE.md").read_text("utf-8")
        assert "Licence" in text
        assert "Source" in text


@pytest.mark.parametrize(("name", "source"), [("imagenet", "imagenet-agr")])
def test_embedded_folders_are_copies(name: str, source: str) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no data to compare with: {SHARED} is missing")
    for path in (EMBEDDED / name).iterdir():
        if path.name != "PROVENANCE.md":
            assert path.read_bytes() == (SHARED / source / path.name).read_bytes()


@pytest.mark.parametrize(
    ("name", "n", "stages"),
    [
        ("ferplus", 6358, ("github", "facepp", "microsoft", "google")),
        ("yelp", 20_000, ("github", "amazon", "google", "baidu")),
        ("command", 64_727, ("github", "ibm", "microsoft", "google")),
    ],
)
def test_answers_of_commercial_apis(name: str, n: int, stages: tuple[str, ...]) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no data to read: {SHARED} is missing")
    folder = read_folder(SHARED / "frugalml" / name)
    fit, test = folder.parts.values()
    assert fit.names == stages
    assert len(fit) + len(test) == n
    table = parquet.read_table(SHARED / "frugalml" / name / "answers.parquet")
    for ours, theirs in zip(fit.stages, test.stages, strict=True):
        assert list(ours.measured) == ["confidence"]
        hits = sum((said.answers[:, 0] == part.labels).sum() for said, part in ((ours, fit), (theirs, test)))
        assert hits == np.sum(table[f"{ours.name}.answer"].to_numpy() == table["label"].to_numpy())
        confidence = np.concatenate([ours.measured["confidence"], theirs.measured["confidence"]])
        np.testing.assert_array_equal(np.sort(confidence), np.sort(table[f"{ours.name}.confidence"].to_numpy()))


# a user's own


def test_named_parts(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    costs(folder, "b", "a")
    for name in ("test.outputs.npz", "fit.outputs.npz", "tune.outputs.npz"):
        npz(folder, name, b=-LOGITS)
    npz(folder, ".fit.outputs.npz.17.ab.tmp")
    (folder / "notes.md").write_text("")
    found = read_folder(folder)
    assert found.name == "mine"
    assert list(found.parts) == ["fit", "tune", "test"]
    assert found.parts["tune"].names == ("b", "a")
    np.testing.assert_array_equal(found.parts["tune"].stages[0].logits, -LOGITS)
    (folder / "tune.outputs.npz").unlink()
    assert list(read_folder(str(folder)).parts) == ["fit", "test"]


@pytest.mark.parametrize("name", ["outputs.npz", "answers.parquet", "answers.csv"])
def test_an_unnamed_part_is_split_by_the_seed(tmp_path: Path, name: str) -> None:
    costs(tmp_path, "a")
    labels = np.arange(101)
    if name == "outputs.npz":
        npz(tmp_path, name, labels=labels, a=np.eye(101))
    elif name == "answers.csv":
        (tmp_path / name).write_text("label,a.answer\n" + "".join(f"{i},{i}\n" for i in labels))
    else:
        parquet.write_table(pa.table({"label": labels, "a.answer": labels}), tmp_path / name)
    fit, test = read_folder(tmp_path, seed=3).parts.values()
    assert (fit.part, test.part, len(fit), len(test), fit.classes) == ("fit", "test", 50, 51, 101)
    np.testing.assert_array_equal(fit.ids, fit.labels)
    assert right([fit, test], 0) == [100.0, 100.0]
    np.testing.assert_array_equal(np.sort(np.concatenate([fit.labels, test.labels])), labels)
    again, other = (read_folder(tmp_path, seed=seed).parts["fit"].labels for seed in (3, 4))
    np.testing.assert_array_equal(again, fit.labels)
    assert not np.array_equal(other, fit.labels)
    assert 20 < np.median(fit.labels) < 80  # drawn from everywhere


def test_unknown_names_are_answered_with_those_there_are(tmp_path: Path) -> None:
    refused("cifra10", f"a data folder or one of {', '.join(embedded_names())}", "'cifra10'")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "a data folder or one of", "a file")


def test_an_embedded_name_does_not_hide_a_folder_given_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs(tmp_path / "cifar10", "a")
    npz(tmp_path / "cifar10", "outputs.npz")
    monkeypatch.chdir(tmp_path)
    assert read_folder("./cifar10").parts["fit"].names == ("a",)
    assert read_folder(Path("cifar10")).parts["fit"].names == ("a",)
    assert read_folder("cifar10").parts["fit"].names == ("alexnet", "googlenet", "resnet")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["fit.outputs.npz", "unnamed part", "found costs.json"]),
        (["fit.outputs.npz"], ["test.outputs.npz or test.answers.parquet", "fit.outputs.npz"]),
        (["test.outputs.npz", "tune.outputs.npz"], ["expected fit.outputs.npz", "test.outputs.npz, tune.outputs.npz"]),
        (
            ["fit.outputs.npz", "test.outputs.npz", "valid.outputs.npz"],
            ["fit., tune., certify., test.", "valid.outputs.npz"],
        ),
        (["fit.outputs.npz", "test.outputs.npz", "outputs.npz"], ["named parts or one unnamed", "outputs.npz"]),
        (
            ["fit.outputs.npz", "fit.answers.csv", "test.outputs.npz"],
            ["one file a part", "fit.answers.csv and fit.out"],
        ),
        (["outputs.npz", "answers.csv"], ["one file a part", "answers.csv and outputs.npz"]),
    ],
)
def test_bad_sets_of_files(tmp_path: Path, files: list[str], words: list[str]) -> None:
    costs(tmp_path, "a")
    for name in files:
        npz(tmp_path, name)
        if not name.endswith(".npz"):
            shutil.move(tmp_path / f"{name}.npz", tmp_path / name)
    refused(tmp_path, tmp_path.name, *words)


def test_missing_or_bad_costs(tmp_path: Path) -> None:
    npz(tmp_path, "outputs.npz")
    refused(tmp_path, "costs.json", "No such file")
    (tmp_path / "costs.json").write_text('{"unit": "ms", "stages": {"a": -1}}')
    refused(tmp_path, "costs.json", "stage 'a'", "at least 0")


@pytest.mark.parametrize("name", ["outputs.npz", "answers.parquet"])
def test_stages_of_the_costs_and_of_the_data_must_be_the_same(tmp_path: Path, name: str) -> None:
    if name == "outputs.npz":
        npz(tmp_path, name, b=LOGITS)
    else:
        parquet.write_table(pa.table({"label": LABELS, "a.answer": LABELS, "b.answer": LABELS}), tmp_path / name)
    costs(tmp_path, "b", "a")
    assert read_folder(tmp_path).parts["fit"].names == ("b", "a")
    costs(tmp_path, "a", "b", "dear")
    refused(tmp_path, name, "dear", "stage in costs.json")
    costs(tmp_path, "a")
    refused(tmp_path, name, "costs.json (a)", "'b")


def test_one_example_cannot_be_split(tmp_path: Path) -> None:
    costs(tmp_path, "a")
    npz(tmp_path, "outputs.npz", labels=LABELS[:1], a=LOGITS[:1])
    refused(tmp_path, "outputs.npz", "at least 2 examples", "found 1")
    npz(tmp_path, "outputs.npz", labels=LABELS[:2], a=LOGITS[:2])
    assert [len(outputs) for outputs in read_folder(tmp_path).parts.values()] == [1, 1]


def test_the_same_id_in_two_parts_is_a_leak(tmp_path: Path) -> None:
    costs(tmp_path, "a")
    npz(tmp_path, "fit.outputs.npz", ids=np.arange(4))
    npz(tmp_path, "test.outputs.npz", ids=np.arange(3, 7))
    refused(tmp_path, "fit.outputs.npz", "test.outputs.npz", "id 3", "leak")


def test_what_is_kept_back_is_taken_out_of_fit_and_nothing_else(tmp_path: Path) -> None:
    labels, logits = np.arange(40) % 3, np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    costs(tmp_path, "a")
    npz(tmp_path, "fit.outputs.npz", labels=labels, a=logits, ids=np.arange(40))
    npz(tmp_path, "test.outputs.npz", labels=labels, a=logits, ids=np.arange(40, 80))
    data = read_folder(tmp_path)
    kept = keep_back(data, 0.25, 7)
    assert list(kept.parts) == ["fit", "certify", "test"]
    assert len(kept.parts["certify"]) == 10
    assert kept.parts["certify"].part == "certify"
    both = np.concatenate([kept.parts["fit"].ids, kept.parts["certify"].ids])
    assert sorted(both.tolist()) == list(range(40))
    assert kept.parts["test"] is data.parts["test"]
    assert keep_back(data, 0.25, 7).parts["certify"].ids.tolist() == kept.parts["certify"].ids.tolist()
    assert keep_back(data, 0.25, 8).parts["certify"].ids.tolist() != kept.parts["certify"].ids.tolist()
    assert keep_back(kept, 0.5, 7) is kept  # it has a part of its own already
    for share in (0.0, 0.001, 1.0):
        with pytest.raises(InputError, match="of 40"):
            keep_back(data, share, 7)
