"""The batches of an epoch: in memory gathered where they lie, from disk read ahead by other processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pkdray.data.mapped import MappedArray
from pkdray.embeddings import Rows
from pkdray.training.parallel import Workers

INPUT, STEPS = "input.", "steps."
"""What the names of a network's inputs begin with (`inputs.input_name`, `inputs.steps_name`): of these alone each
worker takes its share."""


def batches(
    rows: Rows, order: Sequence[Tensor], workers: Workers, readers: int = 0
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Each global batch's number of rows, and its arrays: of the inputs this worker's share, of the others all rows.

    Args:
        rows: the training rows.
        order: the indices of each batch.
        workers: this process's place among the data-parallel workers.
        readers: processes that read what lies on disk ahead; 0 reads when it is needed. What is read does not depend
            on it.
    """
    shares = [workers.share(indices) for indices in order]
    names = {name: shares if name.startswith((INPUT, STEPS)) else order for name in rows.names}
    read = iter(_read_ahead(rows, {name: names[name] for name in rows.on_disk}, len(order), readers))
    for number, indices in enumerate(order):
        batch = dict(next(read))
        for chosen in (shares, order):
            wanted = [name for name in rows.names if name not in batch and names[name] is chosen]
            batch |= rows.take(chosen[number], wanted)
        yield len(indices), {name: values.to(rows.device, non_blocking=True) for name, values in batch.items()}


class _Reads(Dataset):
    """Batch number -> the arrays on disk, at the batch's indices."""

    def __init__(self, arrays: dict[str, MappedArray], chosen: dict[str, list[np.ndarray]], count: int) -> None:
        self.arrays = arrays
        self.chosen = chosen
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array.gather(self.chosen[name][number])) for name, array in self.arrays.items()}


def _read_ahead(
    rows: Rows, chosen: dict[str, Sequence[Tensor]], count: int, readers: int
) -> Iterator[dict[str, Tensor]]:
    if not chosen:
        yield from ({} for _ in range(count))
        return
    indices = {name: [one.cpu().numpy() for one in per_batch] for name, per_batch in chosen.items()}
    yield from DataLoader(
        _Reads(rows.on_disk, indices, count),
        batch_size=None,
        num_workers=readers,
        pin_memory=torch.device(rows.device).type == "cuda",
        # Its own: the loader draws a seed for its processes, and dropout's stream must not feel that.
        generator=torch.Generator(),
    )
