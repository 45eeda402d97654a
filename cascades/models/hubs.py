"""Published weights turned into files: from torch's or Hugging Face's cache, or downloaded into it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from offramp.cascades.models.weights import reason_of
from offramp.features.errors import InputError

NETWORK_SECONDS = 5.0
"""A server that has not answered by then is taken as out of reach."""


@contextmanager
def _impatient() -> Iterator[None]:
    """Sockets that are opened meanwhile give up soon, where torch's downloads would wait for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def hub_file(url: str, where: str) -> Path:
    """The file of ``url`` in torch's cache, downloaded if need be."""
    import torch.hub

    name = Path(urlsplit(url).path).name
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / name
    if path.is_file():
        return path
    checksum = re.search(r"-([a-f0-9]{8,})\.", name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _impatient():
            torch.hub.download_url_to_file(url, str(path), checksum[1] if checksum else None, progress=False)
    except (OSError, RuntimeError) as error:
        expected = (
            f"the file {name} in {folder} (from {url}: download it elsewhere and put it there, or set TORCH_HOME to the"
            f" folder that has hub/checkpoints/{name})"
        )
        found = f"no such file, and no way to download it: {_reason(error)}"
        raise InputError(expected, found, where) from error
    return path


def hugging_face_file(repository: str, revision: str | None, names: Sequence[str], where: str) -> Path:
    """The first of these files of a repository that is in Hugging Face's cache or else can be downloaded."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cache = constants.HF_HUB_CACHE
    try:
        for name in names:
            cached = try_to_load_from_cache(repository, name, cache_dir=cache, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
    except ValueError as error:
        raise InputError("OWNER/NAME of a model on the Hugging Face hub", repr(repository), where) from error
    # asked once: the hub's own client tries for half a minute before it says that there is no network
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _out_of_reach(constants.ENDPOINT)
    for name in () if reason else names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision, cache_dir=cache))
        except EntryNotFoundError as error:
            reason = reason_of(error)
            if isinstance(error, LocalEntryNotFoundError):
                break
        except Exception as error:
            reason = reason_of(error)
            break
    expected = (
        f"the file {' or '.join(names)} of {repository} in the Hugging Face cache {cache} (on a machine with a network:"
        f" hf download {repository} {names[0]}; then copy models--{repository.replace('/', '--')} there, or set"
        " HF_HOME to the folder that has hub/)"
    )
    raise InputError(expected, f"no such file, and no way to download it: {reason}", where)


def _out_of_reach(server: str) -> str:
    """Why the server does not answer; empty if it does."""
    try:
        with urlopen(Request(server, method="HEAD"), timeout=NETWORK_SECONDS):
            return ""
    except HTTPError:
        return ""  # whatever it says, it is there
    except (OSError, ValueError) as error:
        return _reason(error)


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    return reason_of(inner) if isinstance(inner, BaseException) else reason_of(error)
