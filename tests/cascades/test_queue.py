"""The queue under attack: stages that throw, callbacks that wait, callers who reuse a buffer, images of many sizes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from offramp.cascades.graph.routing import Routes  # noqa: E402
from offramp.cascades.models.preprocessing import Preprocessing  # noqa: E402
from offramp.cascades.runtime import queue as module  # noqa: E402
from offramp.cascades.runtime.decide import LiveCascade, Plan  # noqa: E402
from offramp.cascades.runtime.queue import Queue  # noqa: E402
from offramp.features.errors import InputError  # noqa: E402

HOW = Preprocessing(None, None, "bilinear", (0.0,), (1.0,), channels=1)
KEY = HOW.pixels_key
CLASSES = 256


class Echo:
    """A stage that answers with the first pixel, and does ``also`` what it is told to with the values."""

    trunk = None
    exit = 0

    def __init__(self, name: str, also: Callable[[list[int]], None] = lambda _: None) -> None:
        self.name, self.also, self.preprocessing = name, also, HOW
        self.calls: list[list[int]] = []

    def inputs(self, pixels: Any) -> Any:
        return pixels.permute(0, 3, 1, 2).float()

    def logits(self, x: Any) -> Any:
        values = x[:, 0, 0, 0].long()
        self.calls.append(values.tolist())
        self.also(self.calls[-1])
        return torch.nn.functional.one_hot(values, CLASSES).float()


def images(*values: int, side: int = 2) -> dict[Any, Any]:
    return {KEY: torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, side, side, 1).contiguous()}


def queue_of(*stages: Echo, onward: Callable[[int], bool] = lambda _: False, **more: Any) -> Queue:
    """One stage, or two of which the second sees what goes ``onward``."""
    paths = ((0,), (0, 1))[: len(stages)]
    spent = np.array([[1.0, 0.0], [1.0, 4.0]])[: len(stages), : len(stages)]
    routes = Routes(tuple(stage.name for stage in stages), paths, spent, "ms")

    def decide(logits: Any) -> Any:
        answer = logits[-1].argmax(1)
        going = np.array([onward(int(a)) for a in answer]) if len(logits) < len(stages) else answer * 0
        return going.astype(int), answer

    plan = Plan(0, dict.fromkeys(range(len(paths)), decide))
    settings: dict[str, Any] = {"worth": (64,) * len(stages), "patience": 0.05} | more
    return Queue(stages, LiveCascade(routes, (plan,), (1.0,)), torch.device("cpu"), **settings)  # type: ignore[arg-type]


def refuses(*guilty: int) -> Callable[[list[int]], None]:
    def also(values: list[int]) -> None:
        if bad := [value for value in values if value in guilty]:
            raise ValueError(f"can't see {bad[0]}")

    return also


def told(future: Future[Any]) -> Any:
    error = future.exception(20)
    return error if error is not None else future.result().answer.tolist()


@pytest.mark.parametrize("guilty", [(0,), (37,), (63,), (3, 4), (0, 20, 63)])
def test_only_the_guilty_fail_and_the_others_are_answered(guilty: tuple[int, ...]) -> None:
    stage = Echo("a", refuses(*guilty))
    with queue_of(stage) as queue:
        futures = [queue.submit(images(i)) for i in range(64)]
        found = [told(future) for future in futures]
    for i, one in enumerate(found):
        if i in guilty:
            assert isinstance(one, ValueError)
            assert str(one) == f"can't see {i}"
        else:
            assert one == [i]
    assert len(stage.calls) <= 1 + 2 * 6 * len(guilty)  # g halvings down to one of 64


def test_a_later_stage_that_throws_fails_only_those_that_reach_it() -> None:
    with queue_of(Echo("a"), Echo("b", refuses(9)), onward=lambda value: value % 2 == 1) as queue:
        futures = {i: queue.submit(images(i)) for i in range(16)}
        found = {i: told(future) for i, future in futures.items()}
    assert isinstance(found.pop(9), ValueError)
    assert all(answer == [i] for i, answer in found.items())


def test_a_stage_that_is_broken_for_all_is_not_halved_for_ever() -> None:
    stage = Echo("a", refuses(*range(64)))
    with queue_of(stage) as queue:
        futures = [queue.submit(images(i)) for i in range(64)]
        assert all(isinstance(told(future), ValueError) for future in futures)
    assert len(stage.calls) <= 7 + 2 * module.HOPELESS + 7


def test_an_end_of_the_thread_fails_who_waits_and_refuses_who_comes() -> None:
    def leave(_: list[int]) -> None:
        raise SystemExit(3)

    threading_hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        queue = queue_of(Echo("a", leave), worth=(1,), patience=0.0)
        future = queue.submit(images(1, 2, 3))
        assert type(future.exception(20)) is SystemExit
        queue.close()
        with pytest.raises(RuntimeError, match="closed"):
            queue.submit(images(1))
    finally:
        threading.excepthook = threading_hook


def test_a_callback_may_submit_and_wait() -> None:
    second: list[Any] = []
    done = threading.Event()
    with queue_of(Echo("a"), worth=(1,), patience=0.0) as queue:

        def again(_: Future[Any]) -> None:
            second.append(told(queue.submit(images(7))))
            done.set()

        queue.submit(images(3)).add_done_callback(again)
        assert done.wait(20)
    assert second == [[7]]


def test_a_callback_that_throws_does_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        with queue_of(Echo("a"), worth=(1,), patience=0.0) as queue:

            def throw(_: Future[Any]) -> None:
                raise KeyboardInterrupt

            queue.submit(images(3)).add_done_callback(throw)
            assert told(queue.submit(images(4))) == [4]
    finally:
        threading.excepthook = hook


def test_a_caller_may_use_the_buffer_again() -> None:
    entered, free = threading.Event(), threading.Event()

    def wait(_: list[int]) -> None:
        entered.set()
        free.wait(20)

    with queue_of(Echo("a", wait), worth=(1,), patience=0.0, most=1) as queue:
        queue.submit(images(1))
        assert entered.wait(20)
        buffer = images(5)
        later = queue.submit(buffer)
        buffer[KEY].fill_(9)
        free.set()
        assert told(later) == [5]


def test_images_of_unlike_sizes_share_no_batch_and_all_are_answered() -> None:
    shapes: list[set[Any]] = []

    class Sized(Echo):
        def logits(self, x: Any) -> Any:
            shapes.append({tuple(one.shape) for one in x})
            return super().logits(x)

    with queue_of(Sized("a"), worth=(4,), patience=0.02) as queue:
        futures = [queue.submit(images(i, side=(2, 3, 5)[i % 3])) for i in range(24)]
        assert [told(future) for future in futures] == [[i] for i in range(24)]
    assert {len(each) for each in shapes} == {1}
    assert set().union(*shapes) == {(1, 2, 2), (1, 3, 3), (1, 5, 5)}


@pytest.mark.parametrize("patience", [1e15, float("inf")])
def test_a_patience_beyond_all_clocks_waits_and_is_answered_at_the_end(patience: float) -> None:
    queue = queue_of(Echo("a"), patience=patience)
    future = queue.submit(images(4))
    assert not future.done()
    queue.close()
    assert told(future) == [4]


@pytest.mark.parametrize("more", [{"patience": float("nan")}, {"patience": -1.0}, {"most": 0}, {"worth": (0,)}])
def test_a_queue_that_could_not_work_is_refused(more: Mapping[str, Any]) -> None:
    with pytest.raises(InputError):
        queue_of(Echo("a"), **more)


def test_what_is_remembered_of_batches_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with queue_of(Echo("a"), worth=(1,), patience=0.0, most=1) as queue:
        assert queue.state["batches"].maxlen == module.LATEST
        for i in range(5):
            assert told(queue.submit(images(i))) == [i]
        assert queue.batches == [(0, 1)] * 5
        assert queue.counts == {(0, 1): 5}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "offramp queue"]
