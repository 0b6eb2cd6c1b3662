from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pkdray.losses import contrastive_loss, cosine_loss, hint_loss, kl_loss


def log_softmax(values):
    shifted = values - values.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def test_cosine(randn):
    student, teacher, weight = randn(7, 13), randn(7, 13), randn(7).abs()
    s, t = student.numpy(), teacher.numpy()
    rows = 1 - (s * t).sum(1) / np.linalg.norm(s, axis=1) / np.linalg.norm(t, axis=1)
    np.testing.assert_allclose(cosine_loss(student, teacher), rows.mean(), rtol=1e-7)
    np.testing.assert_allclose(cosine_loss(student, teacher, weight), (rows * weight.numpy()).mean(), rtol=1e-7)
    frames = cosine_loss(student.expand(3, 7, 13), teacher.expand(3, 7, 13), weight.expand(3, 7))
    torch.testing.assert_close(frames, cosine_loss(student, teacher, weight))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl(randn, temperature):
    student, teacher, weight = randn(7, 5), randn(7, 5), randn(7).abs()
    log_s, log_t = log_softmax(student.numpy() / temperature), log_softmax(teacher.numpy() / temperature)
    rows = temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(1)
    np.testing.assert_allclose(kl_loss(student, teacher, temperature), rows.mean(), rtol=1e-12)
    np.testing.assert_allclose(
        kl_loss(student, teacher, torch.tensor(temperature), weight), (rows * weight.numpy()).mean(), rtol=1e-12
    )


def test_kl_torch_agrees(randn):
    student, teacher = randn(7, 5), randn(7, 5)
    peer = torch.nn.functional.kl_div(
        (student / 3).log_softmax(-1), (teacher / 3).log_softmax(-1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(kl_loss(student, teacher, 3.0), 9 * peer)


def test_hint(randn):
    student, teacher, weight = randn(7, 13), randn(7, 13), randn(7).abs()
    squares = ((student - teacher) ** 2).numpy()
    np.testing.assert_allclose(hint_loss(student, teacher), squares.mean(), rtol=1e-12)
    np.testing.assert_allclose(
        hint_loss(student, teacher, weight), (squares.mean(1) * weight.numpy()).mean(), rtol=1e-12
    )


@pytest.mark.parametrize("temperature", [0.07, 1.0, torch.tensor(0.5)])
def test_contrastive_is_a_cross_entropy_over_the_batch(randn, temperature):
    student, teacher, weight = randn(13, 7), randn(13, 7), randn(13).abs()
    cosines = torch.nn.functional.cosine_similarity(student[:, None], teacher[None], dim=-1)
    rows = torch.nn.functional.cross_entropy(cosines / temperature, torch.arange(13), reduction="none")
    torch.testing.assert_close(contrastive_loss(student, teacher, temperature), rows.mean())
    torch.testing.assert_close(contrastive_loss(student, teacher, temperature, weight), (rows * weight).mean())


def test_contrastive_of_several_batches_has_no_negatives_between_them(randn):
    student, teacher, weight = randn(3, 7, 5), randn(3, 7, 5), randn(3, 7).abs()
    alone = [contrastive_loss(s, t, 0.5, w) for s, t, w in zip(student, teacher, weight, strict=True)]
    torch.testing.assert_close(contrastive_loss(student, teacher, 0.5, weight), torch.stack(alone).mean())


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(0.05, 20), st.sampled_from([1, 2, 7, 13]))
def test_laws_of_the_contrastive_loss(seed, scale, rows):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, 5, generator=generator, dtype=torch.float64)
    value = contrastive_loss(student, teacher, scale)
    assert 0 <= value <= math.log(rows) + 2 / scale
    # Up to the smoothing of the norm, which a short row feels.
    scaled = contrastive_loss((1 + scale) * student, teacher, 0.5)
    torch.testing.assert_close(scaled, contrastive_loss(student, teacher, 0.5), rtol=1e-4, atol=1e-4)
    order = torch.randperm(rows, generator=generator)
    torch.testing.assert_close(contrastive_loss(student[order], teacher[order], scale), value)
    chance = torch.tensor(math.log(rows), dtype=torch.float64)
    torch.testing.assert_close(contrastive_loss(student, teacher[:1].expand(rows, 5), scale), chance)
    torch.testing.assert_close(contrastive_loss(student, torch.zeros_like(teacher), scale), chance)
    # A student who is its teacher is no worse than one whose rows are shuffled.
    assert contrastive_loss(teacher, teacher, scale) <= contrastive_loss(teacher[order], teacher, scale) + 1e-9


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(0.1, 100), st.sampled_from([2, 7, 13]))
def test_laws(seed, scale, rows):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, 5, generator=generator, dtype=torch.float64)
    assert 0 <= cosine_loss(student, teacher) <= 2
    torch.testing.assert_close(
        cosine_loss(student, teacher), cosine_loss(scale * student, teacher), rtol=1e-5, atol=1e-6
    )
    assert abs(cosine_loss(teacher, teacher)) < 1e-6
    assert kl_loss(student, teacher, scale) >= -1e-12
    torch.testing.assert_close(
        kl_loss(student, teacher, 2.0), kl_loss(student + scale, teacher - scale, 2.0), rtol=1e-8, atol=1e-10
    )
    assert kl_loss(teacher, teacher, scale) == 0
    order = torch.randperm(rows, generator=generator)
    torch.testing.assert_close(hint_loss(student[order], teacher[order]), hint_loss(student, teacher))


@pytest.mark.parametrize(
    "loss",
    [cosine_loss, hint_loss, lambda s, t, w: kl_loss(s, t, 2.0, w), lambda s, t, w: contrastive_loss(s, t, 0.5, w)],
    ids=["cosine", "hint", "kl", "contrastive"],
)
def test_gradients(randn, loss):
    student, teacher, weight = randn(7, 5).requires_grad_(), randn(7, 5).requires_grad_(), randn(7).abs()
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, weight), (student, teacher))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_zero_vectors_have_bounded_gradients(dtype):
    student = torch.zeros(7, 13, dtype=dtype).requires_grad_()
    teacher = torch.ones(7, 13, dtype=dtype)
    for other in (teacher, torch.zeros_like(teacher)):
        loss = cosine_loss(student, other)
        assert loss.item() == 1
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.isfinite().all()
        assert gradient.abs().max() <= 1e4


def test_kl_of_extreme_logits_is_finite():
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = kl_loss(student, torch.tensor([[-1e4, 1e4]]), 1.0)
    assert loss.item() == pytest.approx(2e4)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cosine_loss(torch.ones(3, 2), torch.ones(3, 4)), r"\[3, 2\].*\[3, 4\]"),
        (lambda: cosine_loss(torch.ones(3), torch.ones(3)), "2 at least"),
        (lambda: cosine_loss(torch.ones(0, 2), torch.ones(0, 2)), "no rows"),
        (lambda: hint_loss(torch.ones(3, 2), torch.ones(3, 2), torch.ones(2)), r"needs \[3\]"),
        (lambda: kl_loss(torch.ones(3, 2), torch.ones(2, 3), 1.0), "student_logits"),
        (lambda: kl_loss(torch.ones(3, 2), torch.ones(3, 2), 0.0), "temperature is 0.0"),
        (lambda: kl_loss(torch.ones(3, 2), torch.ones(3, 2), float("nan")), "temperature is nan"),
        (lambda: kl_loss(torch.ones(3, 2), torch.ones(3, 2), torch.ones(3)), "0-d"),
        (lambda: contrastive_loss(torch.ones(3, 2), torch.ones(3, 4), 1.0), r"\[3, 2\].*\[3, 4\]"),
        (lambda: contrastive_loss(torch.ones(3), torch.ones(3), 1.0), "2 at least"),
        (lambda: contrastive_loss(torch.ones(3, 2), torch.ones(3, 2), -1.0), "temperature is -1.0"),
        (lambda: contrastive_loss(torch.ones(3, 2), torch.ones(3, 2), torch.ones(1)), "0-d"),
        (lambda: contrastive_loss(torch.ones(3, 2), torch.ones(3, 2), 1.0, torch.ones(2)), r"needs \[3\]"),
        (lambda: contrastive_loss(torch.ones(0, 2), torch.ones(0, 2), 1.0), "no rows"),
    ],
)
def test_errors_name_the_value_and_the_cure(call, said):
    with pytest.raises(ValueError, match=said):
        call()
