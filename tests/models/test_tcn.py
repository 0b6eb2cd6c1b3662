"""The temporal convolutional network: its equation in numpy, what a frame sees, and that it never looks ahead."""

from __future__ import annotations

import numpy as np
import torch

from pkdray.models.tcn import TCNEncoder


def convolve(layer: torch.nn.Conv1d, values: np.ndarray, dilation: int) -> np.ndarray:
    """y[t] = b + sum_k W[:, :, k] x[t - (2 - k) dilation], zeros before the first frame."""
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    found = np.tile(bias, (len(values), 1))
    for frame in range(len(values)):
        for tap in range(3):
            seen = frame - (2 - tap) * dilation
            if seen >= 0:
                found[frame] += weight[:, :, tap] @ values[seen]
    return found


def test_it_is_what_its_equation_says():
    torch.manual_seed(0)
    network = TCNEncoder(3, [5, 5], 0.5, per_frame=True).eval()
    values = torch.randn(2, 11, 3)
    for sample in range(2):
        expected = values[sample].double().numpy()
        for block, dilation in zip(network.layers, (1, 2), strict=True):
            inner = np.maximum(convolve(block.first, expected, dilation), 0)
            inner = np.maximum(convolve(block.second, inner, dilation), 0)
            residual = expected
            if isinstance(block.residual, torch.nn.Conv1d):
                weight = block.residual.weight[:, :, 0].detach().double().numpy()
                residual = expected @ weight.T + block.residual.bias.detach().double().numpy()
            expected = np.maximum(inner + residual, 0)
        np.testing.assert_allclose(network(values)[sample].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_frame_sees_thirteen_frames_with_two_layers_and_none_of_the_future():
    network = TCNEncoder(3, [9, 9], 0.0, per_frame=True).eval()
    with torch.no_grad():
        # Positive throughout, so that no ReLU hides a frame.
        for value in network.parameters():
            value.abs_()
    values = torch.rand(1, 31, 3, requires_grad=True)
    network(values)[0, 20].sum().backward()
    seen = values.grad[0].abs().sum(dim=1).nonzero().flatten().tolist()
    assert seen == list(range(8, 21))


def test_a_sample_is_the_mean_of_its_frames():
    network = TCNEncoder(3, [5], 0.0, per_frame=True).eval()
    values = torch.randn(2, 11, 3)
    frames = network(values)
    network.per_frame = False
    torch.testing.assert_close(network(values), frames.mean(dim=1))
