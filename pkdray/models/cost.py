"""What a network costs: its parameters, and the multiply-accumulates of one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

_GATES = {"GRU": 3, "LSTM": 4, "RNN_TANH": 1, "RNN_RELU": 1}


class Cost(NamedTuple):
    """``parameters``, those of them that are ``trainable``, and ``macs`` of one forward pass."""

    parameters: int
    trainable: int
    macs: int


def cost(module: nn.Module, inputs: Any) -> Cost:
    """Parameters of a network and multiply-accumulates of one forward pass, in evaluation mode.

    Counted are matrix products, convolutions, recurrent layers and attention, one a multiplication with its addition;
    biases, activations, normalisation and pooling are not, as is usual. The batch counts: give one sample for the cost
    of a sample. Shared parameters count once. On the ``meta`` device this takes neither time nor memory.

    Args:
        module: the network; its training modes are those from before when this returns.
        inputs: what ``module`` takes; a tuple stands for several arguments.

    Example:
        >>> cost(nn.Linear(3, 5), torch.zeros(7, 3))
        Cost(parameters=20, trainable=20, macs=105)
    """
    modes = {part: part.training for part in module.modules()}
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    recurrent = _RecurrentMacs(counter)
    try:
        module.eval()
        with torch.no_grad(), ExitStack() as stack:
            for part in modes:
                if isinstance(part, nn.RNNBase):
                    for handle in recurrent.watch(part):
                        stack.callback(handle.remove)
            with counter:
                module(*inputs) if isinstance(inputs, tuple) else module(inputs)
    finally:
        for part, mode in modes.items():
            part.training = mode
    parameters = list(module.parameters())
    return Cost(
        parameters=sum(value.numel() for value in parameters),
        trainable=sum(value.numel() for value in parameters if value.requires_grad),
        macs=counter.get_total_flops() // 2 + recurrent.macs,
    )


def recurrent_macs(layer: nn.RNNBase, steps: int) -> int:
    """Multiply-accumulates of recurrent layers over ``steps`` frames (of all samples): steps * sum of weights' sizes.

    A layer of G gates multiplies G h (x + h) weights a frame; G is 3 for a GRU, 4 for an LSTM.

    Example:
        >>> recurrent_macs(nn.GRU(5, 7), steps=2)
        504
    """
    directions = 2 if layer.bidirectional else 1
    state = layer.proj_size or layer.hidden_size
    total = 0
    for level in range(layer.num_layers):
        inputs = layer.input_size if level == 0 else state * directions
        total += _GATES[layer.mode] * layer.hidden_size * (inputs + state) + layer.proj_size * layer.hidden_size
    return steps * directions * total


class _RecurrentMacs:
    """Recurrent layers by formula: torch counts them on one device and misses them, fused, on another.

    Whatever was counted inside of one is taken back.
    """

    def __init__(self, counter: FlopCounterMode) -> None:
        self.macs = 0
        self._counter = counter
        self._before = 0

    def watch(self, layer: nn.RNNBase) -> tuple[Any, Any]:
        return layer.register_forward_pre_hook(self._enter), layer.register_forward_hook(self._leave)

    def _enter(self, _layer: nn.Module, _inputs: tuple[Any, ...]) -> None:
        self._before = self._counter.get_total_flops()

    def _leave(self, layer: nn.Module, inputs: tuple[Any, ...], _output: object) -> None:
        assert isinstance(layer, nn.RNNBase)
        assert isinstance(inputs[0], Tensor)
        counted = self._counter.get_total_flops() - self._before
        self.macs += recurrent_macs(layer, inputs[0].numel() // layer.input_size) - counted // 2


def _attention(query: Any, key: Any, value: Any, *_args: object, **_kwargs: object) -> int:
    return sdpa_flop_count(query, key, value)


# torch's counter knows attention on GPUs alone.
_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}
