from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pkdray.losses import confidence_weights, mix, select_teacher, uniform_weights

SELECTIONS = {
    "batch": lambda losses, mask=None: select_teacher(losses, mask, per="batch"),
    "sample": lambda losses, mask=None: select_teacher(losses, mask, per="sample"),
    "uniform": uniform_weights,
    "confidence": confidence_weights,
}
every_selection = pytest.mark.parametrize("weigh", SELECTIONS.values(), ids=SELECTIONS.keys())


def test_select_per_sample_and_per_batch(randn):
    losses = randn(5, 13).abs()
    per_sample = select_teacher(losses, per="sample")
    assert per_sample.argmax(0).tolist() == losses.numpy().argmin(0).tolist()
    per_batch = select_teacher(losses)
    best = int(losses.numpy().mean(1).argmin())
    assert per_batch.sum(1).tolist() == [13 if m == best else 0 for m in range(5)]


def test_select_among_the_unmasked(randn):
    losses = randn(5, 13).abs()
    mask = torch.tensor([True, False, True, False, True])
    allowed = np.where(mask.numpy()[:, None], losses.numpy(), np.inf)
    assert select_teacher(losses, mask, "sample").argmax(0).tolist() == allowed.argmin(0).tolist()
    assert select_teacher(losses, mask)[:, 0].argmax().item() == allowed.mean(1).argmin()


def test_ties_go_to_the_first():
    assert select_teacher(torch.ones(3, 2), torch.tensor([False, True, True]))[:, 0].tolist() == [0, 1, 0]


def test_nan_is_never_chosen_and_infinity_last():
    losses = torch.tensor([[math.nan, math.nan, math.inf], [1.0, math.nan, math.nan], [2.0, math.nan, 3.0]])
    chosen = select_teacher(losses, per="sample")
    assert chosen[:, 0].tolist() == [0, 1, 0]
    assert chosen[:, 1].tolist() == [0, 0, 0]
    assert chosen[:, 2].tolist() == [0, 0, 1]
    masked = select_teacher(torch.tensor([[1.0], [math.inf]]), torch.tensor([False, True]), "sample")
    assert masked.tolist() == [[0], [1]]
    soft = confidence_weights(losses)
    assert soft.isfinite().all()
    assert soft[:, 1].tolist() == [0, 0, 0]
    assert soft[:, 2].tolist() == [0, 0, 1]
    lone = confidence_weights(torch.tensor([[1.0], [math.inf]]), torch.tensor([False, True]))
    assert lone.tolist() == [[0], [1]]


def test_confidence(randn):
    losses = randn(5, 13).abs()
    mask = np.array([True, True, False, True, False])
    for temperature in (0.3, 1.0, torch.tensor(2.0)):
        exponentials = np.exp(-losses.numpy() / float(temperature)) * mask[:, None]
        np.testing.assert_allclose(
            confidence_weights(losses, torch.from_numpy(mask), temperature),
            exponentials / exponentials.sum(0),
            rtol=1e-7,
        )
    torch.testing.assert_close(confidence_weights(losses, temperature=1e-6), select_teacher(losses, per="sample"))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.lists(st.booleans(), min_size=1, max_size=7))
def test_laws_of_every_selection(seed, mask):
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(len(mask), 13, generator=generator)
    available = torch.tensor(mask)
    for weigh in SELECTIONS.values():
        weights = weigh(losses, available)
        assert weights.shape == losses.shape
        assert (weights >= 0).all()
        assert (weights[~available] == 0).all()
        torch.testing.assert_close(weights.sum(0), torch.full((13,), float(any(mask))))
        # A masked teacher is as good as absent.
        if any(mask):
            torch.testing.assert_close(weights[available], weigh(losses[available]))


@every_selection
def test_pool_of_one_and_pool_of_none(weigh):
    losses = torch.rand(1, 13)
    assert weigh(losses).tolist() == [[1] * 13]
    assert weigh(losses, torch.tensor([False])).tolist() == [[0] * 13]


@every_selection
def test_no_gradient_and_float32(weigh):
    losses = torch.rand(3, 7, dtype=torch.float16).requires_grad_()
    weights = weigh(losses)
    assert not weights.requires_grad
    assert weights.dtype == torch.float32


@every_selection
def test_errors_name_the_value_and_the_cure(weigh):
    for losses, mask, said in (
        (torch.ones(3), None, r"losses has shape \[3\]"),
        (torch.ones(0, 3), None, r"losses has shape \[0, 3\]"),
        (torch.ones(3, 2), torch.ones(3), "boolean"),
        (torch.ones(3, 2), torch.ones(2, dtype=torch.bool), "3 teachers"),
    ):
        with pytest.raises(ValueError, match=said):
            weigh(losses, mask)


def test_errors_of_single_functions():
    with pytest.raises(ValueError, match=r"'epoch'.*'batch'"):
        select_teacher(torch.ones(3, 2), per="epoch")
    with pytest.raises(ValueError, match="temperature is -1"):
        confidence_weights(torch.ones(3, 2), temperature=-1)
    with pytest.raises(ValueError, match=r"\[3, 2\].*\[3, 4, 5\]"):
        mix(torch.ones(3, 2), torch.ones(3, 4, 5))


def test_mix(randn):
    weights, values = randn(3, 7), randn(3, 7, 5)
    np.testing.assert_allclose(mix(weights, values), np.einsum("mb,mbd->bd", weights, values), rtol=1e-12)
    np.testing.assert_allclose(mix(weights, values[..., 0]), np.einsum("mb,mb->b", weights, values[..., 0]), rtol=1e-12)
    chosen = select_teacher(randn(3, 7), per="sample")
    torch.testing.assert_close(mix(chosen, values), values[chosen.argmax(0), torch.arange(7)])


def test_a_teacher_without_weight_cannot_spoil_the_mix():
    values = torch.tensor([[[math.nan]], [[3.0]], [[math.inf]]], requires_grad=True)
    result = mix(torch.tensor([[0.0], [0.5], [0.0]]), values)
    assert result.item() == 1.5
    assert torch.autograd.grad(result.sum(), values)[0].flatten().tolist() == [0, 0.5, 0]
