"""Weights and training state as safetensors: nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pkdray.errors import CheckpointError
from pkdray.files import write_atomic
from pkdray.models.visual import frozen_state

_META = "pkdray"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata to one file, atomically.

    Raises:
        StorageError: the folder cannot be written.
    """
    # A contiguous copy each: safetensors refuses tensors that share storage, as tied or sliced weights do.
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # Serialised first: safetensors' own writer hides the system's reason (a full disk) in an error of its own.
    content = save(owned, metadata={_META: json.dumps(meta)})
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def load_tensors(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        CheckpointError: the file is missing, truncated or was not written by pkdray.
    """
    try:
        with safe_open(path, framework="pt", device=device) as stream:
            meta = json.loads((stream.metadata() or {})[_META])
            return {name: stream.get_tensor(name) for name in stream.keys()}, meta  # noqa: SIM118  (no mapping)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no {path}.", cure="Run the step that makes it again.") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or is no checkpoint of pkdray ({error}).",
            cure="Delete it and run the step that makes it again.",
        ) from error


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a module that must match them exactly.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape.
    """
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{path} does not fit the network that its config describes: {first}",
            cure="The folder mixes files of different results: make it again.",
        ) from error


def trained_state(module: torch.nn.Module) -> dict[str, Tensor]:
    """A module's state dict without its frozen backbones, of which a file exists already.

    A VGG19 has 80 MB, and a thousand trials would keep a thousand of it.
    """
    frozen = frozen_state(module)
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


def load_trained(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load what `trained_state` left, into a module whose frozen backbones hold their weights already.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape.
    """
    load_weights(module, {**frozen_state(module), **tensors}, path)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as flat tensors (``optimizer.<parameter>.<name>``) and its JSON-able groups."""
    state = optimizer.state_dict()
    tensors = {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
        if value is not None
    }
    return tensors, state["param_groups"]


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Put back what `pack_optimizer` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})
