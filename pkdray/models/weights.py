"""Weights of pretrained backbones: from a local file, without running what is in it, and checked before use.

Nothing is ever downloaded. A file is ``.safetensors``, or whatever ``torch.save`` made of a state dict; the latter is a
pickle and is opened with ``weights_only=True``, which builds tensors and plain containers and refuses anything else.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pkdray.errors import CheckpointError
from pkdray.files import checksum as file_checksum

_SHOWN = 3
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_SKIPPED: ContextVar[tuple[bool, bool]] = ContextVar("_SKIPPED", default=(False, False))
"""Whether a network that trains, and one that is frozen, is built without its file."""


@contextmanager
def no_pretrained_weights(*, but_frozen: bool = False) -> Iterator[None]:
    """Build networks inside without reading ``weights``: for those whose own checkpoint is loaded next.

    A finished student holds all of its weights, so the file that its backbone once started from is not needed, and on
    the machine where the student is used it does not exist. A trial's or a teacher's file lacks what is frozen: with
    ``but_frozen`` that is read from ``weights`` all the same, unless this is inside of one that reads nothing.
    """
    token = _SKIPPED.set((True, _SKIPPED.get()[1] or not but_frozen))
    try:
        yield
    finally:
        _SKIPPED.reset(token)


def load_pretrained(
    network: nn.Module,
    path: str | None,
    *,
    name: str,
    checksum: str | None = None,
    unused: Iterable[str] = (),
    frozen: bool = False,
) -> None:
    """Load the backbone's weights from a file, if there is one to load.

    Args:
        network: the backbone; all of its parameters and buffers must be in the file.
        path: the file; None leaves the random weights.
        name: of the network, for the errors.
        checksum: ``sha256:<64 hex digits>`` that the file must have, if given.
        unused: prefixes of tensors in the file that the backbone has no layer for (the classifier's).
        frozen: whether the backbone stays as it is loaded (see `no_pretrained_weights`).

    Raises:
        CheckpointError: there is no such file, it is damaged, holds code, or is of another network.
    """
    if path is None or _SKIPPED.get()[frozen]:
        return
    file = Path(path).expanduser()
    tensors = _without(_named(read_weights(file, checksum)), unused)
    _adapt_channels(network, tensors)
    _check(network, tensors, file, name)
    network.load_state_dict(tensors, strict=False)


def read_weights(path: Path, checksum: str | None = None) -> dict[str, Tensor]:
    """The tensors of a state dict in a file, on the CPU.

    Raises:
        CheckpointError: there is no such file, it is damaged, has another checksum, or holds more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(
            f"There is no file of weights {path}.",
            cure="pkdray downloads nothing: fetch the weights yourself, put the file where every node can read it and "
            "name it in `weights`, or set `weights: null` to start from random ones.",
        )
    if checksum is not None and (found := weights_checksum(path)) != checksum:
        raise CheckpointError(
            f"{path} has the checksum {found}, not {checksum}.",
            cure="Fetch the weights again, or correct `weights_checksum` if this is the file you mean.",
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise CheckpointError(
            f"{path} holds more than tensors, or is damaged; it was not opened, as that could run code ({reason}).",
            cure="Where you trust it, load it and save its state_dict() as .safetensors.",
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path} is truncated or holds no weights ({reason}).", cure="Fetch the weights again."
        ) from error
    return _state_dict(content, path)


def weights_checksum(path: Path) -> str:
    """A file's checksum, computed once a process for as long as its size and its time stay: such files are large.

    Raises:
        OSError: it cannot be read.
    """
    about = path.stat()
    return _checksum(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=32)
def _checksum(path: Path, _size: int, _changed: int) -> str:
    return file_checksum(path)


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict itself: training scripts tend to wrap it together with an epoch and an optimizer."""
    if isinstance(content, Mapping):
        for key in _WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path} holds no state dict but a {type(content).__name__}.", cure="Save the network's state_dict()."
        )
    wrong = [key for key, value in content.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(
            f"{path} holds no state dict: {_some(map(str, wrong))} is no tensor.",
            cure="Save the network's state_dict().",
        )
    return dict(content)


def _named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """DistributedDataParallel and DataParallel put ``module.`` before every name."""
    if all(key.startswith("module.") for key in tensors):
        return {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _without(tensors: dict[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.startswith(tuple(prefixes))}


def _adapt_channels(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a network of one channel the summed weights of an RGB one, which answer to a grey image alike."""
    for key, value in network.state_dict().items():
        given = tensors.get(key)
        if given is not None and given.ndim == 4 and given.shape[1] == 3 and value.shape[1] == 1:
            tensors[key] = given.sum(dim=1, keepdim=True)


def _check(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, name: str) -> None:
    expected = network.state_dict()
    # Files from before PyTorch 0.4.1 have no counter of batches, and evaluation does not read it.
    missing = [key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")]
    unknown = [key for key in tensors if key not in expected]
    shapes = [
        f"{key} has shape {list(tensors[key].shape)}, not {list(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    details = []
    if missing:
        details.append(f"{len(missing)} tensors are missing: {_some(missing)}")
    if unknown:
        details.append(f"{len(unknown)} tensors are unknown: {_some(unknown)}")
    if shapes:
        details.append(f"{len(shapes)} tensors have another shape: {_some(shapes)}")
    if details:
        raise CheckpointError(
            f"{path} holds no weights of a {name}.",
            details=details,
            cure=f"Name a file of torchvision's {name}, with torchvision's names of the layers.",
        )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
