"""Who taught whom: a training gone through once more, without training anything.

Who teaches a row and whether the gate lets it depend on what the frozen teachers said, which is cached, and on who was
in the batch, which is drawn from (seed, epoch) alone. So the very lessons of every epoch can be held again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from pkdray.config import Config, DistillingMethod
from pkdray.data.dataset import Dataset
from pkdray.embeddings import Rows
from pkdray.losses.objective import has_gate, hyperparameters, teaching
from pkdray.training.inputs import labelled_rows
from pkdray.training.loop import epoch_batches
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool


@dataclass(frozen=True)
class Replay:
    """What was counted, for M teachers and R training rows: labelled samples, or frames where targets are per frame.

    Args:
        teachers: their names.
        samples: the position of each row's sample in ``dataset.samples``, [R].
        targets: of each row, [R] or [R, n].
        losses: of each teacher, [M, R]; ``gammas`` too.
        gammas: of each teacher, [M, R].
        visits: how often each row was in a batch, [R].
        taught: the sum of each teacher's weights over these visits, [M, R].
        distilled: the same over the visits for which the gate was open, [M, R].
        opened: for how many visits the gate was open, [R].
        history: one row an epoch: ``epoch``, ``teacher/<name>`` and, of a method with a gate, ``gate_open``: what the
            training logged as ``train/teacher/<name>`` and ``train/gate_open`` (means over batches).
    """

    teachers: list[str]
    samples: np.ndarray
    targets: np.ndarray
    losses: np.ndarray
    gammas: np.ndarray
    visits: np.ndarray
    taught: np.ndarray
    distilled: np.ndarray
    opened: np.ndarray
    history: pd.DataFrame


def replay(plan: Plan, config: Config, dataset: Dataset, pool: Pool, epochs: int) -> Replay:
    """Hold the lessons of a training again.

    Args:
        plan: the study.
        config: the trial's, of a method that distils.
        dataset: the study's.
        pool: the study's.
        epochs: how many epochs the training had.

    Raises:
        CheckpointError: the teachers' embeddings are missing or damaged.
    """
    assert isinstance(config.method, DistillingMethod)
    method, hparams, names = config.method, hyperparameters(config.method), plan.teachers_of(config)
    chosen = dataset.rows("train", plan.config.dataset.fold)
    said = pool.load_embeddings(plan, dataset.samples["sample_id"].iloc[chosen].tolist())
    shape = (len(chosen), plan.info.target_frames) if plan.info.target_frames else (len(chosen),)
    rows = Rows(
        {
            "target": dataset.targets()[chosen],
            "row": np.arange(int(np.prod(shape))).reshape(shape),
            **{f"{name}.loss": said[name].loss for name in names},
            **{f"{name}.gamma": said[name].gamma for name in names},
        }
    )

    def labelled(indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        batch = rows.take(indices)
        target, of = labelled_rows(plan.info, batch["target"])
        losses, gammas = (
            torch.stack([of(batch[f"{name}.{field}"], 0) for name in names]) for field in ("loss", "gamma")
        )
        return target, of(batch["row"], 0), losses, gammas

    count = int(np.prod(shape))
    visits, opened = (torch.zeros(count, dtype=torch.float64) for _ in range(2))
    taught, distilled = (torch.zeros(len(names), count, dtype=torch.float64) for _ in range(2))
    history = []
    for epoch in range(1, epochs + 1):
        batches = epoch_batches(len(chosen), config.training.batch_size, config.seed, epoch)
        totals = torch.zeros(len(names) + 1)
        for indices in batches:
            _, row, losses, gammas = labelled(indices)
            lesson = teaching(method, losses, gammas, hparams)
            visits[row] += 1
            opened[row] += lesson.keep
            taught[:, row] += lesson.weights
            distilled[:, row] += lesson.weights * lesson.keep
            totals += torch.stack([*lesson.weights.mean(dim=1), lesson.keep.mean()])
        means = [float(total) / len(batches) for total in totals]
        entry = {"epoch": epoch, **{f"teacher/{name}": mean for name, mean in zip(names, means, strict=False)}}
        history.append(entry | ({"gate_open": means[-1]} if has_gate(method) else {}))
    target, row, losses, gammas = labelled(torch.arange(len(chosen)))
    return Replay(
        teachers=names,
        samples=chosen[(row // (plan.info.target_frames or 1)).numpy()],
        targets=target.numpy(),
        losses=losses.numpy(),
        gammas=gammas.numpy(),
        visits=visits[row].numpy(),
        taught=taught[:, row].numpy(),
        distilled=distilled[:, row].numpy(),
        opened=opened[row].numpy(),
        history=pd.DataFrame(history),
    )
