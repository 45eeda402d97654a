"""Files of weights turned into tensors by name, and back, without running anything they hold."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.cascades.models.pickles import refuse_bombs
from offramp.features.errors import InputError
from offramp.features.store.atomic import replacing
from offramp.features.store.opening import opened

if TYPE_CHECKING:
    from torch import Tensor, nn


TORCH_SUFFIXES = (".pth", ".pt", ".th")

NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which a training program may have put the weights among other things."""

PREFIXES = ("module.", "_orig_mod.")
"""What nn.DataParallel and torch.compile put in front of every name."""

COUNTER = "num_batches_tracked"
"""How the names of batch normalisation's counters end."""

DIGEST_CHUNK = 1 << 20

MOST_CLASSES = 1_000_000
MOST_TENSORS = 100_000
MOST_HEADER = 64 * 2**20
"""Of a safetensors file: the largest networks have some thousand tensors, of a hundred bytes of header each."""

SHOWN = 3
"""How many names or rows an error lists before it says "and … more"."""


@dataclass(frozen=True)
class Weights:
    """What a file holds: tensors by name, and text about them (``architecture``, ``classes`` one a line, …)."""

    tensors: dict[str, Tensor]
    about: dict[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, if the file has them."""
        names = tuple(self.about["classes"].split("\n")) if self.about.get("classes") else ()
        if len(names) > MOST_CLASSES:
            raise InputError(f"at most {MOST_CLASSES:,} classes", f"{len(names):,}", "the notes of a weights file")
        return names


def read_weights(path: Path) -> Weights:
    """The tensors of a safetensors file or of a torch file, of which nothing but tensors is ever read.

    A torch file may hold them under a key such as ``state_dict``, beside texts ``architecture`` and ``classes``;
    prefixes of nn.DataParallel and torch.compile are taken off. Raises InputError if the file is missing, broken, of
    another kind, or would run code.
    """
    with opened(path, "a file of weights") as file:
        head = file.read(16)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _read_torch(path)
    found = f"one that begins with {head!r}" if head else "an empty file"
    raise InputError("a safetensors or torch file of weights", found, str(path))


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    with opened(path, "a file of weights") as file:
        size = int.from_bytes(file.read(8), "little")
        # a tensor takes a colon for each of its three keys and one for itself, however its keys are spelt
        many = file.read(size).count(b":") // 4 if size <= MOST_HEADER else 0
    if size > MOST_HEADER or many > MOST_TENSORS:
        found = f"a header of {size:,} bytes with {many:,}"
        raise InputError(f"a safetensors file of at most {MOST_TENSORS:,} tensors", found, str(path))
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is not iterable
            return Weights(_stripped(tensors), dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError("a safetensors file of weights", reason_of(error), str(path)) from error


def _read_torch(path: Path) -> Weights:
    import torch

    refuse_bombs(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old kinds of pickle, just before they fail
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        # torch's own text for the rest begins with advice to read the file without any guard
        why = "" if "Weights only" in str(error) else f": {reason_of(error).split('. ')[0]}"
        found = f"a file that is broken or of another kind{why}"
        if named:
            found = f"a file that names {named[1]}, which reading it would run; nothing was run"
        expected = "a torch file of nothing but tensors, torch.save(module.state_dict(), path)"
        raise InputError(expected, found, str(path)) from error
    about: dict[str, str] = {}
    if isinstance(held, Mapping):
        architecture, classes = held.get("architecture"), held.get("classes")
        if isinstance(architecture, str):
            about["architecture"] = architecture
        if isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes):
            about["classes"] = classes if isinstance(classes, str) else "\n".join(classes)
        inner = next((held[key] for key in NESTED if isinstance(held.get(key), Mapping)), held)
    else:
        inner = held
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(v, torch.Tensor) for v in inner.values()):
        raise InputError("tensors by name, as module.state_dict() has them", described(inner), str(path))
    return Weights(_stripped({str(name): value for name, value in inner.items()}), about)


def _stripped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def put_weights(module: nn.Module, tensors: Mapping[str, Tensor], expected: str, where: str) -> None:
    """Load ``tensors`` into ``module``; counters of batches, which nothing reads, may be missing.

    Auxiliary heads that the network lacks are left out. Floating-point numbers may have 16, 32 or 64 bits. Raises
    InputError that names what differs: names, shapes, the kind of numbers, or how a tensor is stored.
    """
    own = module.state_dict()
    heads = tuple(head for head in ("aux1.", "aux2.", "AuxLogits.") if not any(name.startswith(head) for name in own))
    given = {name: value for name, value in tensors.items() if not name.startswith(heads)} if heads else dict(tensors)
    missing = [name for name in own if name not in given and not name.endswith(COUNTER)]
    strange = [name for name in given if name not in own]
    both = [name for name in own if name in given]
    stored = {name: how for name in both if (how := _stored(given[name]))}
    shapes = [
        f"{name} of shape {tuple(given[name].shape)} in place of {tuple(own[name].shape)}"
        for name in both
        if name not in stored and given[name].shape != own[name].shape
    ]
    kinds = [
        f"{name} of {given[name].dtype} in place of {own[name].dtype}"
        for name in both
        if not _same_kind(given[name], own[name], name)
    ]
    differ = [
        f"{label} {listed(names)}".strip()
        for label, names in (
            ("no", missing),
            ("besides these", strange),
            ("", shapes),
            ("", [f"{name} stored as {how}" for name, how in stored.items()]),
            ("", kinds),
        )
        if names
    ]
    if differ:
        raise InputError(expected, "; ".join(differ), where)
    module.load_state_dict(given, strict=False)


def _stored(value: Tensor) -> str:
    """How a tensor is stored if not as all of its numbers in rows and columns, else nothing."""
    import torch

    if value.is_nested:
        return "a list of tensors"
    if value.is_meta:
        return "a shape without numbers"
    return "" if value.layout == torch.strided else str(value.layout)


def _same_kind(given: Tensor, own: Tensor, name: str) -> bool:
    """Whether the numbers of one tensor can stand for the other's: any floating-point ones for such, integers for
    integers, and either for a counter, which halving a whole file makes floating-point too."""
    import torch

    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    integers = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if name.endswith(COUNTER):
        return given.dtype in (*floats, *integers)
    return given.dtype == own.dtype or any(given.dtype in kind and own.dtype in kind for kind in (floats, integers))


def listed(names: Sequence[str]) -> str:
    """The first ``SHOWN`` names, and how many there are besides."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def save_weights(module: nn.Module, path: Path, about: dict[str, str], half: bool = False) -> None:
    """Write the weights as safetensors, whole or not at all; matrices and kernels in float16 if ``half``.

    ``about`` is kept beside them: ``architecture`` and ``classes`` (one a line) make the file one that
    ``file:PATH`` reads without being told more. Raises InputError where the file cannot be written.
    """
    from safetensors.torch import save

    # cloned: two names of one tensor, or a part of a larger one, are refused
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    if half:  # variances and other vectors may be too small for it
        tensors = {name: value.half() if value.ndim > 1 else value for name, value in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(_in_order(save(tensors, metadata=about)))


def _in_order(content: bytes) -> bytes:
    """A safetensors file whose notes stand in order: the library's own order changes from process to process."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    notes = header.pop("__metadata__", None)
    ordered = ({"__metadata__": dict(sorted(notes.items()))} if notes else {}) | header
    text = json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers behind it stay aligned
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def weights_digest(module: nn.Module) -> str:
    """SHA-256, in hex, over the names, kinds, shapes and values of all weights, wherever they are."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8) if value.numel() else None
        for start in range(0, 0 if flat is None else len(flat), DIGEST_CHUNK):
            assert flat is not None
            digest.update(flat[start : start + DIGEST_CHUNK].numpy().tobytes())
    return digest.hexdigest()


def described(output: object) -> str:
    """What an object is, for an error: its kind, shape, keys or parts."""
    import torch

    if isinstance(output, torch.Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with keys {listed([str(key) for key in output])}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}: {listed([described(part) for part in output])}"
    return f"a {type(output).__name__}"


def reason_of(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
