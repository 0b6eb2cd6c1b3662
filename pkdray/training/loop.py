"""THE training loop: teachers, adapters, T-Nets and students all go through `fit`.

Two properties hold it together. A step is a pure function ``step(forward, batch, hparams) -> (loss, parts)``: the
network enters as a callable, the hyperparameters as tensors, so the same step serves a plain module, DDP and stacked
parameters under ``torch.func.vmap``. And every epoch draws its order and its dropout from (seed, epoch) alone, so a
training that is interrupted and continued gives the same numbers as one that was not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from pkdray.config import TrainingConfig
from pkdray.embeddings import Rows
from pkdray.errors import CheckpointError, DatasetError, DivergedError
from pkdray.models.encoder import Encoder
from pkdray.models.visual import frozen_state
from pkdray.training.checkpoints import load_tensors, pack_optimizer, save_tensors, trained_state, unpack_optimizer
from pkdray.training.feeding import batches
from pkdray.training.folders import Checkpoints
from pkdray.training.metrics import Metric
from pkdray.training.parallel import Network, Workers

Batch: TypeAlias = dict[str, Tensor]
Hparams: TypeAlias = Mapping[str, Tensor]
Forward: TypeAlias = Callable[..., Any]
Step: TypeAlias = Callable[[Forward, Batch, Hparams], tuple[Tensor, dict[str, Tensor]]]
Report: TypeAlias = Callable[[dict[str, float]], None]

LAST = "last.safetensors"
_LOG = logging.getLogger(__name__)


@dataclass
class Fitted:
    """What a training came to: the model holds the weights of the best epoch by validation."""

    model: nn.Module
    best: dict[str, float]
    history: list[dict[str, float]]

    @property
    def epochs(self) -> int:
        """Epochs trained, the ones after the best included."""
        return len(self.history)


def fit(
    model: nn.Module,
    step: Step,
    rows: Rows,
    *,
    config: TrainingConfig,
    metric: Metric,
    validate: Callable[[nn.Module], dict[str, float]],
    hparams: Hparams | None = None,
    seed: int = 0,
    identity: str = "",
    folder: Path | None = None,
    report: Report | None = None,
    workers: Workers | None = None,
    readers: int = 0,
) -> Fitted:
    """Train a model with early stopping, and leave it with the weights of its best epoch.

    Args:
        model: on the device of ``rows``.
        step: the pure training step; its parts are averaged over the epoch and logged as ``train/<part>``.
        rows: the training rows; a batch is one gathered copy.
        config: epochs, batch size, precision, optimizer, patience. An encoder's own ``learning_rate`` wins over its.
        metric: the validation metric that decides which epoch is best.
        validate: the model (in evaluation mode) to its validation metrics.
        hparams: hyperparameters of the step, as tensors on the model's device. Those that require a gradient are
            learned beside the model by the same optimizer, without weight decay: the step gets copies of them, which a
            checkpoint keeps and the returned model does not.
        seed: of order and dropout.
        identity: fingerprint of what is trained; a checkpoint of something else is not continued.
        folder: where ``last.safetensors`` is kept; a training found there is continued. None keeps nothing.
        report: called after every epoch with its metrics: ``epoch`` (from 1), ``train/loss``, the validation metrics
            and ``best``, the best value of ``metric`` so far.
        workers: this process's place among data-parallel workers: the losses are those of a worker alone.
        readers: processes that read ahead what lies on disk.

    Raises:
        DatasetError: there are too few rows for a single batch.
        DivergedError: the loss of an epoch is not finite.
        StorageError: a checkpoint cannot be written.
    """
    workers = workers or Workers()
    largest = min(len(rows), config.batch_size)
    if largest < 2:
        raise DatasetError(
            f"{len(rows)} training row{'' if len(rows) == 1 else 's'} in batches of {config.batch_size} give no batch "
            "of two rows.",
            cure="Give the train split more samples.",
        )
    learned = {name: value.detach().clone() for name, value in (hparams or {}).items() if value.requires_grad}
    hparams = {**(hparams or {}), **{name: value.requires_grad_() for name, value in learned.items()}}
    training = _Training(model, learned, _optimizer(model, learned, config), _scaler(rows.device, config))
    state = _State.resume(folder, identity, training) if folder else _State()
    checkpoints = Checkpoints()
    network = Network(
        model, device=rows.device, precision=config.precision, micro_batch=config.micro_batch, workers=workers
    )
    while not state.finished and len(state.history) < config.epochs:
        epoch = len(state.history) + 1
        entry = {
            "epoch": float(epoch),
            **_train_epoch(network, step, rows, hparams, config, training, seed, epoch, workers, readers),
        }
        workers.settle(model, learned)
        model.eval()
        with torch.no_grad():
            # Agreed on: who is best, and when to stop, must be the same for all to the last bit.
            entry |= workers.agree(validate(model))
        if metric.better(entry[metric.name], state.best.get(metric.name)):
            state.best = dict(entry)
            state.weights = {name: tensor.detach().clone() for name, tensor in trained_state(model).items()}
        entry["best"] = state.best.get(metric.name, float("nan"))
        state.history.append(entry)
        state.finished = epoch == config.epochs or epoch - state.best.get("epoch", 0) >= config.patience
        if folder and workers.rank == 0 and (state.finished or epoch % config.checkpoint_every == 0):
            state.save(folder / LAST, identity, training)
            checkpoints.saved(folder / LAST)
        if report:
            report({**entry, "finished": float(state.finished)})
    if not state.weights:
        raise DivergedError(f"No epoch gave a finite {metric.name} on validation.", cure="Lower the learning rate.")
    model.load_state_dict({**frozen_state(model), **state.weights})
    # What becomes part of another network takes no gradient of its own training along.
    model.zero_grad(set_to_none=True)
    model.eval()
    return Fitted(model, state.best, state.history)


@dataclass(frozen=True)
class _Training:
    """What a training changes as it goes, and a checkpoint has to keep."""

    model: nn.Module
    learned: Hparams
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def descend(self, loss: Tensor, clip: float | None) -> None:
        """One step of the optimizer; where the 16-bit gradients overflowed, it is left out and their scale lowered."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_([value for value in self.model.parameters() if value.requires_grad], clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _train_epoch(
    network: Network,
    step: Step,
    rows: Rows,
    hparams: Hparams,
    config: TrainingConfig,
    training: _Training,
    seed: int,
    epoch: int,
    workers: Workers,
    readers: int,
) -> dict[str, float]:
    chosen = epoch_batches(len(rows), config.batch_size, seed, epoch, rows.device)
    torch.manual_seed(derive_seed(seed, epoch, 1 + workers.rank))
    network.module.train()
    totals: dict[str, Tensor] = {}
    for count, batch in batches(rows, chosen, workers, readers):
        loss, parts = step(network.forward(count), batch, hparams)
        training.descend(loss, config.gradient_clip)
        for name, value in {"loss": loss, **parts}.items():
            totals[name] = totals.get(name, torch.zeros((), device=loss.device)) + value.detach()
    # One transfer an epoch, after all of its steps were queued.
    means = {f"train/{name}": float(total) / len(chosen) for name, total in totals.items()}
    if not np.isfinite(means["train/loss"]):
        raise DivergedError(
            f"The training loss became {means['train/loss']} in epoch {epoch}.",
            cure="Lower the learning rate or the weights of the distillation terms, or set training.gradient_clip.",
        )
    return means


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int, device: str = "cpu") -> list[Tensor]:
    """The indices of each batch of an epoch: a new order of ``count`` rows, drawn from (seed, epoch) alone.

    Relations between rows need two of them: a last batch of one row is left out, and waits for the next epoch's order.

    Example:
        >>> [len(batch) for batch in epoch_batches(7, batch_size=3, seed=0, epoch=1)]
        [3, 3]
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, epoch)))
    return [indices for indices in order.to(device).split(batch_size) if len(indices) > 1]


def derive_seed(*parts: int) -> int:
    """One 32-bit seed from several numbers, such that neighbours are unrelated (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _optimizer(model: nn.Module, learned: Hparams, config: TrainingConfig) -> torch.optim.Optimizer:
    own: dict[Tensor, float] = {}
    for module in model.modules():
        if isinstance(module, Encoder) and module.learning_rate is not None:
            own |= dict.fromkeys(module.parameters(), module.learning_rate)
    trained = [value for value in model.parameters() if value.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [value for value in trained if value not in own]}]
    for rate in sorted(set(own.values())):
        groups.append({"params": [value for value in trained if own.get(value) == rate], "lr": rate})
    if learned:
        # Decay would draw them to 0, which is a value like any other to a hyperparameter.
        groups.append({"params": list(learned.values()), "weight_decay": 0.0})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, momentum=0.9, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, config.learning_rate, weight_decay=config.weight_decay)


def _scaler(device: str, config: TrainingConfig) -> torch.amp.GradScaler:
    """Keeps small gradients from vanishing in float16, which has five bits of exponent; idle otherwise."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=config.precision == "float16")


@dataclass
class _State:
    """Where a training stands between two epochs."""

    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    finished: bool = False

    def save(self, path: Path, identity: str, training: _Training) -> None:
        tensors, groups = pack_optimizer(training.optimizer)
        tensors |= {f"model.{name}": tensor for name, tensor in trained_state(training.model).items()}
        tensors |= {f"hparams.{name}": tensor for name, tensor in training.learned.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.weights.items()}
        meta = {
            "identity": identity,
            "history": self.history,
            "best": self.best,
            "finished": self.finished,
            "groups": groups,
            "scaler": training.scaler.state_dict(),
        }
        save_tensors(path, tensors, meta)

    @classmethod
    def resume(cls, folder: Path, identity: str, training: _Training) -> _State:
        path = folder / LAST
        if not path.exists():
            return cls()
        try:
            tensors, meta = load_tensors(path, device=str(next(training.model.parameters()).device))
        except CheckpointError as error:
            _LOG.warning("%s Training starts anew.", error.what)
            return cls()
        found = meta.get("identity")
        if found != identity:
            _LOG.warning("%s belongs to another training (%s, not %s): starting anew.", path, found, identity)
            return cls()
        training.model.load_state_dict({**frozen_state(training.model), **_part(tensors, "model.")})
        with torch.no_grad():
            for name, value in training.learned.items():
                value.copy_(tensors[f"hparams.{name}"])
        unpack_optimizer(training.optimizer, tensors, meta["groups"])
        training.scaler.load_state_dict(meta["scaler"])
        return cls(meta["history"], meta["best"], _part(tensors, "best."), meta["finished"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
