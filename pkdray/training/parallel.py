"""How a network is called in training: by several workers, in parts, in low precision, and the step none the wiser.

A step sees one callable and one batch. Behind the callable the batch may be spread over data-parallel workers, go
through the network in micro-batches, or in 16 bits; what comes back is the answer to the whole batch, in float32. So a
loss that compares the samples of a batch with one another (a concordance, a similarity matrix) is the same number for
any number of workers and any micro-batch.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from pkdray.training.nested import each, joined

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""What a forward pass may be done in besides float32."""


@dataclass(frozen=True)
class Workers:
    """This process's place among the data-parallel workers; the default is a worker alone.

    Every worker puts its share of each global batch through the network, and all of them compute the loss of the whole
    batch from all their answers. With more than one, ``torch.distributed`` must be set up.

    Args:
        rank: from 0.
        size: how many there are.
        wrap: makes a module average its gradients over the workers (DistributedDataParallel).
    """

    rank: int = 0
    size: int = 1
    wrap: Callable[[nn.Module], nn.Module] = field(default=lambda module: module)

    def share(self, indices: Tensor) -> Tensor:
        """This worker's rows of a global batch, as many for every worker: where they do not add up, some come twice.

        Example:
            >>> [Workers(rank, 3).share(torch.tensor([7, 2, 5, 9])).tolist() for rank in range(3)]
            [[7, 9], [2, 7], [5, 2]]
        """
        if self.size == 1:
            return indices
        places = torch.arange(self.rank, len(indices) + self.size - 1, self.size, device=indices.device)
        count = -(-len(indices) // self.size)
        return indices[places[:count] % len(indices)]

    def gather(self, output: Any, rows: int) -> Any:
        """The answers to all ``rows`` of a global batch, in its order, from every worker's answer to its share."""
        if self.size == 1:
            return output
        return each(lambda tensor: self._gathered(tensor, rows), output)

    def _gathered(self, tensor: Tensor, rows: int) -> Tensor:
        # A part that an answer lacks ([0] in place of [B, P]) is lacking in all of them.
        return _Gather.apply(tensor, rows, self.rank, self.size) if tensor.numel() else tensor

    def agree(self, value: Any) -> Any:
        """The first worker's value: what depends on files may differ from one moment to the next."""
        if self.size == 1:
            return value
        said = [value]
        torch.distributed.broadcast_object_list(said, src=0)
        return said[0]

    def settle(self, model: nn.Module, learned: Mapping[str, Tensor]) -> None:
        """Make the first worker's buffers and learned hyperparameters everybody's, at the end of an epoch."""
        if self.size > 1:
            for tensor in [*model.buffers(), *(value.detach() for value in learned.values())]:
                torch.distributed.broadcast(tensor, src=0)


class _Gather(torch.autograd.Function):
    """[share, ...] of every worker -> [rows, ...] of the global batch.

    Backward needs no exchange: all workers have the same gradient of the same loss, and take their own rows of it,
    times the number of workers, because DistributedDataParallel takes the mean over them where the sum is wanted.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor, rows: int, rank: int, size: int) -> Tensor:
        ctx.place = (len(local), rank, size)
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(size)]
        torch.distributed.all_gather(parts, local.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)[:rows]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        count, rank, size = ctx.place
        own = gradient[rank::size]
        # A row that stands in for a missing one was dropped, and so has no gradient.
        padded = torch.cat([own, own.new_zeros(count - len(own), *own.shape[1:])])
        return padded * size, None, None, None


class MicroBatches(nn.Module):
    """A network that a batch goes through ``size`` samples at a time; the answer is that to the whole batch.

    No part keeps its activations: each goes through once more when its gradients are wanted, which are added up
    (gradient accumulation that is exact for losses of whole batches; Gao et al., 2021, "Scaling deep contrastive
    learning batch size", do it by hand). Dropout is the same both times. BatchNorm normalises each part by itself.

    Args:
        model: takes {name: [B, ...]}, the values tensors or named tuples of them.
        size: samples a part, at least 1; one that is left over alone joins the part before, since BatchNorm needs two.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model = model
        self.size = size

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        """The answer to a batch."""
        rows = _length(next(iter(inputs.values())))
        edges = [*range(0, rows, self.size), rows]
        if self.size > 1 and rows > self.size and edges[-1] - edges[-2] == 1:
            del edges[-2]
        if len(edges) <= 2:
            return self.model(inputs)
        parts = []
        for start, stop in itertools.pairwise(edges):
            part = each(itemgetter(slice(start, stop)), inputs)
            parts.append(checkpoint(self.model, part, use_reentrant=False, context_fn=self._contexts))
        return joined(parts)

    def _contexts(self) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _kept_statistics(self.model)


@contextlib.contextmanager
def _kept_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm normalises but does not count: a part that goes through a second time is not seen twice."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [layer.momentum for layer in layers]
    counted = [None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone() for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, count in zip(layers, before, counted, strict=True):
            layer.momentum = momentum
            if count is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(count)


class Network:
    """A model as training calls it: spread, in parts, in low precision.

    Args:
        model: takes what the step gives its forward; with ``micro_batch``, {name: [B, ...]}.
        device: torch's name of where it is.
        precision: of the forward pass: ``float32``, ``bfloat16``, ``float16``.
        micro_batch: samples that go through at once on each worker; None for all.
        workers: this process's place among them.
    """

    def __init__(
        self, model: nn.Module, *, device: str, precision: str, micro_batch: int | None, workers: Workers
    ) -> None:
        self._kind = torch.device(device).type
        self._precision = PRECISIONS.get(precision)
        self._workers = workers
        self.module = workers.wrap(model if micro_batch is None else MicroBatches(model, micro_batch))

    def forward(self, rows: int) -> Callable[..., Any]:
        """The callable for a global batch of ``rows``: this worker's inputs in, the answer to the whole batch out."""

        def call(*inputs: Any) -> Any:
            if self._precision is None:
                return self._workers.gather(self.module(*inputs), rows)
            with torch.autocast(self._kind, self._precision):
                output = self.module(*inputs)
            return self._workers.gather(each(_in_full, output), rows)

        return call


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Tensor) else _length(value[0])


def _in_full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
