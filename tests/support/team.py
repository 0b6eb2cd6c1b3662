"""Trainings that a test runs alone, and that this file, run as a program, runs as one of several workers.

    python team.py RANK SIZE FILE OUT

FILE is where the workers find one another; the first worker writes OUT: {case: {"history": ..., "weights": ...}}.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pkdray.config import TrainingConfig
from pkdray.data.mapped import MappedArray, write_mapped
from pkdray.embeddings import Rows
from pkdray.losses import ccc_loss, pkdot_loss
from pkdray.losses.weighting import uncertainty_weighting
from pkdray.training.feeding import INPUT
from pkdray.training.loop import Fitted, fit
from pkdray.training.metrics import Metric
from pkdray.training.parallel import Workers

ROWS, BATCH = 38, 9
METRIC = Metric("loss", "regression", "min", lambda prediction, target: ccc_loss(prediction, target))


class TwoHeads(nn.Module):
    """A network that answers with a tuple of what it has: an embedding, a prediction, and a part it lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        embedding = self.body(inputs["x"])
        return embedding, {"prediction": self.head(embedding)}, embedding.new_empty(0)


def rows(folder: Path | None = None) -> Rows:
    rng = np.random.default_rng(8)
    values = rng.normal(size=(ROWS, 5)).astype(np.float32)
    arrays: dict[str, np.ndarray | MappedArray] = {
        f"{INPUT}x": values,
        "target": (values @ rng.normal(size=(5, 2)) + 0.3 * rng.normal(size=(ROWS, 2))).astype(np.float32),
        "teacher": rng.normal(size=(ROWS, 4)).astype(np.float32),
    }
    if folder is not None:
        write_mapped(folder / "x.npy", values)
        arrays[f"{INPUT}x"] = MappedArray.open(folder / "x.npy")
    return Rows(arrays)


def concordance(forward, batch, _hparams):
    _, said, lacking = forward({"x": batch[f"{INPUT}x"]})
    assert lacking.numel() == 0
    return ccc_loss(said["prediction"], batch["target"]), {}


def structure(forward, batch, _hparams):
    embedding, said, _ = forward({"x": batch[f"{INPUT}x"]})
    transport = pkdot_loss(embedding, batch["teacher"], epsilon=0.1, top_k=len(batch["teacher"]) - 1)
    return ccc_loss(said["prediction"], batch["target"]) + 2 * transport, {"transport": transport}


def learned(forward, batch, hparams):
    embedding, said, _ = forward({"x": batch[f"{INPUT}x"]})
    terms = torch.stack([ccc_loss(said["prediction"], batch["target"]), (embedding - batch["teacher"]).square().mean()])
    return uncertainty_weighting(terms, hparams["s"]), {"weight": (-hparams["s"][1]).exp()}


CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "concordance": (concordance, {"optimizer": "sgd", "learning_rate": 0.3}),
    "structure": (structure, {"optimizer": "adam", "learning_rate": 0.01, "gradient_clip": 0.4}),
    "learned": (learned, {"optimizer": "sgd", "learning_rate": 0.1}),
    "micro-batches": (structure, {"optimizer": "sgd", "learning_rate": 0.1, "micro_batch": 2}),
}


def train(
    case: str, workers: Workers | None = None, network: Callable[[], nn.Module] = TwoHeads, **settings: Any
) -> Fitted:
    """One training, alone or as one of the workers."""
    step, config = CASES[case]
    torch.manual_seed(5)
    given = settings.pop("rows", None) or rows()
    everything = given.take(torch.arange(ROWS))

    def validate(model: nn.Module) -> dict[str, float]:
        said = model({"x": everything[f"{INPUT}x"]})[1]["prediction"]
        return {"loss": float(ccc_loss(said, everything["target"]))}

    return fit(
        network(),
        step,
        given,
        config=TrainingConfig.model_validate(
            {"epochs": 3, "batch_size": BATCH, **config, **settings.pop("config", {})}
        ),
        metric=METRIC,
        validate=validate,
        hparams={"s": torch.tensor([0.2, -0.1], requires_grad=True)} if case == "learned" else None,
        seed=3,
        workers=workers,
        **settings,
    )


def main(rank: int, size: int, file: str, out: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    workers = Workers(rank, size, nn.parallel.DistributedDataParallel)
    said = {}
    for case in CASES:
        fitted = train(case, workers)
        weights = {name: value.tolist() for name, value in fitted.model.state_dict().items()}
        said[case] = {"history": fitted.history, "weights": weights}
    said["agreed"] = workers.agree(f"rank {rank}")
    everyone: list[Any] = [None] * size
    torch.distributed.all_gather_object(everyone, said)
    if rank == 0:
        out.write_text(json.dumps(everyone), encoding="utf-8")
    # DDP modules lie in cycles, and must be gone before the group whose threads they hold.
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
