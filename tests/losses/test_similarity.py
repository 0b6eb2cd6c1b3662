from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pkdray.losses import anchored_rows, centroid_loss, similarity_matrix


def cosines(embeddings):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ unit.T


def anchors_by_hand(teacher, student, top_k, anchors):
    """One row after the other, with Python's sort."""
    rows_t, rows_s = [], []
    for i in range(len(teacher)):
        others = sorted((j for j in range(len(teacher)) if j != i), key=lambda j: teacher[i, j])
        k = min(top_k, len(others))
        picked = others[:k] if anchors == "least_similar" else others[len(others) - k :]
        rows_t.append([teacher[i, j] - teacher.min() for j in picked])
        rows_s.append([student[i, j] - student.min() for j in picked])
    return np.array(rows_t), np.array(rows_s)


def test_similarity(randn):
    embeddings = randn(13, 7)
    np.testing.assert_allclose(similarity_matrix(embeddings), cosines(embeddings.numpy()), atol=1e-7)
    batched = similarity_matrix(embeddings.expand(3, 13, 7))
    assert batched.shape == (3, 13, 13)
    torch.testing.assert_close(batched[1], similarity_matrix(embeddings))


@pytest.mark.parametrize("anchors", ["least_similar", "most_similar"])
@pytest.mark.parametrize(("size", "top_k"), [(13, 5), (29, 28), (7, 7), (7, 100), (2, 1), (2, 5)])
def test_anchored_rows(randn, size, top_k, anchors):
    teacher, student = similarity_matrix(randn(size, 11)), similarity_matrix(randn(size, 5))
    rows_t, rows_s = anchored_rows(teacher, student, top_k, anchors)
    expected_t, expected_s = anchors_by_hand(teacher.numpy(), student.numpy(), top_k, anchors)
    assert rows_t.shape == rows_s.shape == (size, min(top_k, size - 1))
    np.testing.assert_allclose(rows_t, expected_t, rtol=1e-12)
    np.testing.assert_allclose(rows_s, expected_s, rtol=1e-12)
    assert (rows_t.diff(dim=1) >= 0).all()
    assert (rows_t >= 0).all()
    assert (rows_s >= 0).all()


@pytest.mark.parametrize("anchors", ["least_similar", "most_similar"])
@pytest.mark.parametrize("top_k", [1, 5, 12, 40])
def test_a_tensor_of_anchors_keeps_the_shape_and_the_distances(randn, top_k, anchors):
    teacher, student = similarity_matrix(randn(13, 7)), similarity_matrix(randn(13, 7))
    plain = anchored_rows(teacher, student, top_k, anchors)
    fixed = anchored_rows(teacher, student, torch.tensor(top_k), anchors)
    assert fixed[0].shape == fixed[1].shape == (13, 12)
    torch.testing.assert_close(torch.cdist(*fixed), torch.cdist(*plain))


def test_a_sample_is_never_its_own_anchor():
    # All rows identical: rounding could put another column above the diagonal, and every similarity is a tie.
    teacher = similarity_matrix(torch.ones(7, 5))
    student = torch.eye(7)
    for anchors in ("least_similar", "most_similar"):
        _, rows = anchored_rows(teacher, student, 6, anchors)
        assert (rows == 0).all()


def test_ties_go_by_index():
    student = torch.arange(49.0).reshape(7, 7)
    _, rows = anchored_rows(torch.eye(7), student, 3)
    assert rows[0].tolist() == [1, 2, 3]
    assert rows[1].tolist() == [7, 9, 10]


def test_one_row_has_no_anchors():
    one = torch.ones(1, 1)
    for top_k in (3, torch.tensor(3)):
        rows_t, rows_s = anchored_rows(one, one, top_k)
        assert rows_t.shape == rows_s.shape == (1, 0)


def test_centroid(randn):
    student, teacher = similarity_matrix(randn(13, 7)), similarity_matrix(randn(13, 11))
    expected = np.linalg.norm(teacher.numpy().mean(0) - student.numpy().mean(0))
    np.testing.assert_allclose(centroid_loss(student, teacher), expected, rtol=1e-12)


def test_centroid_of_equal_matrices_has_gradient_zero(randn):
    embeddings = randn(13, 7).requires_grad_()
    loss = centroid_loss(similarity_matrix(embeddings), similarity_matrix(embeddings.detach()))
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, embeddings)[0] == 0).all()


def test_gradients(randn):
    student, teacher = randn(7, 5).requires_grad_(), similarity_matrix(randn(7, 3))
    assert torch.autograd.gradcheck(similarity_matrix, student)
    assert torch.autograd.gradcheck(lambda s: centroid_loss(similarity_matrix(s), teacher), student)
    assert torch.autograd.gradcheck(lambda s: anchored_rows(teacher, similarity_matrix(s), 3)[1], student)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(randn, dtype):
    half = randn(29, 7).to(dtype)
    torch.testing.assert_close(similarity_matrix(half), similarity_matrix(half.float()), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(similarity_matrix(half.float()), similarity_matrix(half), rtol=0, atol=0)


def test_zero_vectors_are_finite():
    embeddings = torch.zeros(7, 5, requires_grad=True)
    matrix = similarity_matrix(embeddings)
    assert (matrix == 0).all()
    assert torch.autograd.grad(matrix.sum(), embeddings)[0].isfinite().all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.1, 100), st.sampled_from([2, 7, 13]))
def test_laws(seed, scale, size):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, size, 5, generator=generator, dtype=torch.float64)
    matrix, other = similarity_matrix(a), similarity_matrix(b)
    torch.testing.assert_close(matrix, matrix.T)
    assert matrix.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(similarity_matrix(scale * a), matrix, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(centroid_loss(matrix, other), centroid_loss(other, matrix))
    order = torch.randperm(size, generator=generator)
    torch.testing.assert_close(similarity_matrix(a[order]), matrix[order][:, order])
    # Rows follow a permutation of the samples; what stands in them does not change.
    for rows, moved in zip(
        anchored_rows(matrix, other, 3),
        anchored_rows(matrix[order][:, order], other[order][:, order], 3),
        strict=True,
    ):
        torch.testing.assert_close(rows[order], moved)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: similarity_matrix(torch.ones(3)), "feature dimension"),
        (lambda: similarity_matrix(torch.ones(0, 3)), "no rows"),
        (lambda: anchored_rows(torch.eye(3), torch.eye(4), 1), r"\[3, 3\].*\[4, 4\]"),
        (lambda: anchored_rows(torch.ones(3, 2), torch.ones(3, 2), 1), "square"),
        (lambda: anchored_rows(torch.eye(3), torch.eye(3), 0), "top_k is 0"),
        (lambda: anchored_rows(torch.eye(3), torch.eye(3), torch.ones(2)), "top_k has shape"),
        (lambda: anchored_rows(torch.eye(3), torch.eye(3), 1, "nearest"), "'nearest'.*'least_similar'"),
        (lambda: centroid_loss(torch.eye(3), torch.eye(4)), r"\[4, 4\].*\[3, 3\]"),
        (lambda: centroid_loss(torch.ones(3, 5), torch.ones(3, 5)), "from similarity_matrix"),
        (lambda: centroid_loss(torch.ones(0, 0), torch.ones(0, 0)), "no rows"),
    ],
)
def test_errors_name_the_value_and_the_cure(call, said):
    with pytest.raises(ValueError, match=said):
        call()
