"""What every loss must do, whatever it computes: a new one adds one line to LOSSES."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import pkdray.losses as losses

LANES, ROWS, WIDTH, POOL = 3, 13, 7, 5


def classes(rows):
    return torch.arange(rows.shape[0], device=rows.device) % WIDTH


# name: (loss of three tensors, their shapes in one lane); the last of them is a hyperparameter or a weight.
LOSSES = {
    "ccc_loss": (lambda a, b, _: losses.ccc_loss(a, b), ((ROWS, WIDTH), (ROWS, WIDTH), ())),
    "ccc_loss masked": (lambda a, b, w: losses.ccc_loss(a, b, w > 0.3), ((ROWS, WIDTH), (ROWS, WIDTH), (ROWS,))),
    "ccc_loss masked per sequence": (
        lambda a, b, w: losses.ccc_loss(a, b, (w > 0.3).unsqueeze(-1).expand(a.shape), dim=1),
        ((ROWS, WIDTH), (ROWS, WIDTH), (ROWS,)),
    ),
    "ccc per sequence": (lambda a, b, _: losses.ccc(a, b, dim=1), ((ROWS, WIDTH), (ROWS, WIDTH), ())),
    "cross_entropy_loss": (
        lambda a, _, w: losses.cross_entropy_loss(a, classes(a), w),
        ((ROWS, WIDTH), (), (ROWS,)),
    ),
    "ordinal_loss": (
        lambda a, _, w: losses.ordinal_loss(a, classes(a), w),
        ((ROWS, WIDTH - 1), (), (ROWS,)),
    ),
    "cumulative_logits": (lambda a, _b, _c: losses.cumulative_logits(a), ((ROWS, WIDTH), (), ())),
    "ordinal_probabilities": (lambda a, _b, _c: losses.ordinal_probabilities(a), ((ROWS, WIDTH - 1), (), ())),
    "mse_loss": (lambda a, b, w: losses.mse_loss(a, b, b > 0, w), ((ROWS, WIDTH), (ROWS, WIDTH), (ROWS,))),
    "cosine_loss": (losses.cosine_loss, ((ROWS, WIDTH), (ROWS, WIDTH), (ROWS,))),
    "kl_loss": (losses.kl_loss, ((ROWS, WIDTH), (ROWS, WIDTH), ())),
    "hint_loss": (losses.hint_loss, ((ROWS, WIDTH), (ROWS, WIDTH), (ROWS,))),
    "contrastive_loss": (losses.contrastive_loss, ((ROWS, WIDTH), (ROWS, WIDTH), ())),
    "contrastive_loss weighted": (
        lambda a, b, w: losses.contrastive_loss(a, b, 0.5, w),
        ((ROWS, WIDTH), (ROWS, WIDTH), (ROWS,)),
    ),
    "similarity_preserving_loss": (
        lambda a, b, _: losses.similarity_preserving_loss(a, b),
        ((ROWS, WIDTH), (ROWS, WIDTH + 4), ()),
    ),
    "relational_distance_loss": (
        lambda a, b, _: losses.relational_distance_loss(a, b),
        ((ROWS, WIDTH), (ROWS, WIDTH + 4), ()),
    ),
    "relational_angle_loss": (
        lambda a, b, _: losses.relational_angle_loss(a, b),
        ((ROWS, WIDTH), (ROWS, WIDTH + 4), ()),
    ),
    "correlation_congruence_loss": (
        losses.correlation_congruence_loss,
        ((ROWS, WIDTH), (ROWS, WIDTH + 4), ()),
    ),
    "similarity_matrix": (lambda a, _b, _c: losses.similarity_matrix(a), ((ROWS, WIDTH), (), ())),
    "anchored_rows": (
        lambda a, b, w: torch.cat(
            losses.anchored_rows(losses.similarity_matrix(b), losses.similarity_matrix(a), (5 * w).long())
        ),
        ((ROWS, WIDTH), (ROWS, WIDTH), ()),
    ),
    "centroid_loss": (
        lambda a, b, _: losses.centroid_loss(losses.similarity_matrix(a), losses.similarity_matrix(b)),
        ((ROWS, WIDTH), (ROWS, WIDTH), ()),
    ),
    "gate": (lambda a, _, t: sum(losses.negative_transfer_gate(a.abs(), t)) + 0 * a, ((ROWS,), (), ())),
    "gate of classes": (lambda a, _b, _c: losses.classification_gamma(a.abs()), ((ROWS,), (), ())),
    "gate of sequences": (lambda a, _b, _c: losses.sequence_gamma(a.clamp(-1, 1)), ((ROWS,), (), ())),
    "select_teacher": (
        lambda a, b, w: losses.mix(losses.select_teacher(b, w > 0.3), a),
        ((POOL, ROWS, WIDTH), (POOL, ROWS), (POOL,)),
    ),
    "select_teacher per sample": (
        lambda a, b, w: losses.mix(losses.select_teacher(b, w > 0.3, per="sample"), a),
        ((POOL, ROWS, WIDTH), (POOL, ROWS), (POOL,)),
    ),
    "uniform_weights": (
        lambda a, b, w: losses.mix(losses.uniform_weights(b, w > 0.3), a),
        ((POOL, ROWS, WIDTH), (POOL, ROWS), (POOL,)),
    ),
    "confidence_weights": (
        lambda a, b, t: losses.mix(losses.confidence_weights(b, temperature=t), a),
        ((POOL, ROWS, WIDTH), (POOL, ROWS), ()),
    ),
    "uncertainty_weighting": (lambda a, _, s: losses.uncertainty_weighting(a.abs(), s), ((POOL,), (), (POOL,))),
    "uncertainty_weighting by row": (
        lambda a, s, _: losses.uncertainty_weighting(s.abs(), a.clamp(-50, 50)),
        ((ROWS, POOL),) * 2 + ((),),
    ),
    "effective_alpha": (lambda a, _b, _c: losses.effective_alpha(a), ((POOL,), (), ())),
}
every_loss = pytest.mark.parametrize(("loss", "shapes"), LOSSES.values(), ids=LOSSES.keys())


def arguments(shapes, *, lead=(), dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn((*lead, *shape), generator=generator) for shape in shapes[:2])
    # Weights and temperatures are positive; .4 keeps thresholds and masks on both sides.
    third = 0.4 * torch.rand((*lead, *shapes[2]), generator=generator) + 0.2
    return [value.to(dtype) for value in (first, second, third)]


@every_loss
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_vmap_equals_a_loop(loss, shapes):
    lanes = arguments(shapes, lead=(LANES,), dtype=torch.float64)
    batched = torch.func.vmap(loss)(*lanes)
    single = torch.stack([loss(*(value[lane] for value in lanes)) for lane in range(LANES)])
    torch.testing.assert_close(batched, single)

    def total(*values):
        return loss(*values).sum()

    gradients = torch.func.vmap(torch.func.grad(total))(*lanes)
    single = torch.stack([torch.func.grad(total)(*(value[lane] for value in lanes)) for lane in range(LANES)])
    torch.testing.assert_close(gradients, single)


@every_loss
def test_no_value_is_read_on_the_host(loss, shapes):
    with FakeTensorMode():
        first = torch.randn(shapes[0], requires_grad=True)
        second, third = (torch.rand(shape) for shape in shapes[1:])
        loss(first, second, third).sum().backward()
        assert first.grad is not None


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, shapes, dtype):
    half = arguments(shapes, dtype=dtype)
    result = loss(*half)
    full = loss(*(value.float() for value in half))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, full, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(*half), result, rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize("fill", [0.0, 1.0, -1e-20, 1e15])
def test_constant_inputs_are_finite(loss, shapes, fill):
    _, _, third = arguments(shapes)
    first = torch.full(shapes[0], fill, requires_grad=True)
    result = loss(first, torch.full(shapes[1], fill), third)
    assert result.isfinite().all()
    assert torch.autograd.grad(result.sum(), first)[0].isfinite().all()


def same_rows(shape):
    return torch.linspace(-0.7, 0.9, shape[-1]).expand(shape) if len(shape) > 1 else torch.full(shape, 0.3)


# name: how a point is made of (first, second, third) and how many rows and teachers it has.
HARD_POINTS = {
    "identical rows": (lambda a, b, w: (same_rows(a.shape), same_rows(b.shape), w), ROWS, POOL),
    "identical rows of the student": (lambda a, b, w: (same_rows(a.shape), b, w), ROWS, POOL),
    "identical rows of the teacher": (lambda a, b, w: (a, same_rows(b.shape), w), ROWS, POOL),
    "student equals teacher": (lambda a, b, w: (b.clone() if a.shape == b.shape else a, b, w), ROWS, POOL),
    "zero vectors": (lambda a, b, w: (0 * a, 0 * b, w), ROWS, POOL),
    "a zero vector among others": (lambda a, b, w: (torch.cat([0 * a[:1], a[1:]]), b, w), ROWS, POOL),
    "two rows": (lambda a, b, w: (a, b, w), 2, POOL),
    "two rows, the same": (lambda a, b, w: (same_rows(a.shape), same_rows(b.shape), w), 2, POOL),
    "one row": (lambda a, b, w: (a, b, w), 1, POOL),
    "a pool of one": (lambda a, b, w: (a, b, w), ROWS, 1),
    "nothing counts": (lambda a, b, w: (a, -b.abs(), torch.zeros_like(w) if w.ndim else w), ROWS, POOL),
    "large and small": (lambda a, b, w: (1e15 * a, 1e-15 * b, w), ROWS, POOL),
    "small and large": (lambda a, b, w: (1e-15 * a, 1e15 * b, w), ROWS, POOL),
}


@every_loss
@pytest.mark.parametrize(("make", "rows", "pool"), HARD_POINTS.values(), ids=HARD_POINTS.keys())
def test_hard_points_are_finite(loss, shapes, make, rows, pool):
    sizes = {ROWS: rows, POOL: pool}
    first, second, third = make(*arguments([tuple(sizes.get(n, n) for n in shape) for shape in shapes]))
    first, second = first.clone().requires_grad_(), second.clone().requires_grad_()
    result = loss(first, second, third)
    assert result.isfinite().all()
    for gradient in torch.autograd.grad(result.sum(), (first, second), allow_unused=True, materialize_grads=True):
        assert gradient.isfinite().all()


def test_every_public_function_is_exported_and_conforms():
    elsewhere = {"pkdot_loss", "sinkhorn_divergence"}  # test_transport.py; the modules are in test_modules.py
    assert all(hasattr(losses, name) for name in losses.__all__)
    named = " ".join(LOSSES) + " similarity_matrix ccc mix negative_transfer_gate classification_gamma sequence_gamma"
    assert {name for name in losses.__all__ if name[0].islower()} - elsewhere - set(named.split()) == set()


def test_doctests():
    attempted = 0
    for module in pkgutil.iter_modules(losses.__path__, "pkdray.losses."):
        results = doctest.testmod(importlib.import_module(module.name))
        assert results.failed == 0, module.name
        attempted += results.attempted
    assert attempted >= 20
