"""Every loss but transport in float64, for make_golden.py: the equations of the docstrings, one loop per sum.

Slow and plain on purpose: no broadcasting, no masked arithmetic, no trick for stability, so that it shares no mistake
with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, factorial, log, sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DELTA = 1e-4


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def dot(a: Array, b: Array) -> float:
    return sum(float(p) * float(q) for p, q in zip(a, b, strict=True))


def norm(a: Array) -> float:
    return sqrt(dot(a, a) + DELTA**2)


def softmax(logits: Sequence[float] | Array) -> list[float]:
    total = sum(exp(value) for value in logits)
    return [exp(value) / total for value in logits]


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def huber(value: float) -> float:
    return value**2 / 2 if abs(value) <= 1 else abs(value) - 0.5


def concordance(pairs: Sequence[tuple[float, float]]) -> float:
    mx, my = mean([x for x, _ in pairs]), mean([y for _, y in pairs])
    sxx, syy = mean([(x - mx) ** 2 for x, _ in pairs]), mean([(y - my) ** 2 for _, y in pairs])
    sxy = mean([(x - mx) * (y - my) for x, y in pairs])
    return 2 * sxy / (sxx + syy + (mx - my) ** 2)


def ccc(pred: Array, target: Array) -> list[float]:
    """Of frames [B, T, n], one per target."""
    return [
        concordance([(pred[b, t, j], target[b, t, j]) for b in range(pred.shape[0]) for t in range(pred.shape[1])])
        for j in range(pred.shape[2])
    ]


def ccc_loss(pred: Array, target: Array, mask: NDArray[np.bool_]) -> float:
    """Of frames [B, T, n], with a mask of their shape."""
    values = []
    for j in range(pred.shape[2]):
        seen = [
            (pred[b, t, j], target[b, t, j])
            for b in range(pred.shape[0])
            for t in range(pred.shape[1])
            if mask[b, t, j]
        ]
        values.append(1 - concordance(seen))
    return mean(values)


def ccc_loss_per_sequence(pred: Array, target: Array, mask: NDArray[np.bool_]) -> float:
    """The mean over the sequences and targets of which anything is seen."""
    values = []
    for b in range(pred.shape[0]):
        for j in range(pred.shape[2]):
            seen = [(pred[b, t, j], target[b, t, j]) for t in range(pred.shape[1]) if mask[b, t, j]]
            if seen:
                values.append(1 - concordance(seen))
    return mean(values)


def cross_entropy_loss(logits: Array, target: NDArray[np.int64], weight: Array) -> float:
    return mean([w * -log(softmax(row)[y]) for row, y, w in zip(logits, target, weight, strict=True)])


def mse_loss(pred: Array, target: Array, mask: NDArray[np.bool_], weight: Array) -> float:
    squares = [
        weight[i] * (pred[i, j] - target[i, j]) ** 2
        for i in range(pred.shape[0])
        for j in range(pred.shape[1])
        if mask[i, j]
    ]
    return mean(squares)


def ordinal_loss(logits: Array, target: NDArray[np.int64], weight: Array) -> float:
    rows = []
    for row, y, w in zip(logits, target, weight, strict=True):
        rows.append(w * sum(-log(sigmoid(v)) if y > k else -log(1 - sigmoid(v)) for k, v in enumerate(row)))
    return mean(rows)


def cumulative_logits(logits: Array) -> list[list[float]]:
    result = []
    for row in logits:
        p = softmax(row)
        result.append([log(sum(p[k + 1 :]) / sum(p[: k + 1])) for k in range(len(p) - 1)])
    return result


def ordinal_probabilities(logits: Array) -> list[list[float]]:
    result = []
    for row in logits:
        above = [1.0, *(sigmoid(value) for value in row), 0.0]
        p = [max(above[k] - above[k + 1], 0) for k in range(len(above) - 1)]
        result.append([value / sum(p) for value in p])
    return result


def cosine(a: Array, b: Array) -> float:
    return dot(a, b) / (norm(a) * norm(b))


def cosine_loss(student: Array, teacher: Array, weight: Array) -> float:
    return mean([w * (1 - cosine(s, t)) for s, t, w in zip(student, teacher, weight, strict=True)])


def kl_loss(student: Array, teacher: Array, temperature: float, weight: Array) -> float:
    rows = []
    for s, t, w in zip(student, teacher, weight, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        rows.append(w * sum(a * (log(a) - log(b)) for a, b in zip(p, q, strict=True)))
    return temperature**2 * mean(rows)


def hint_loss(student: Array, teacher: Array, weight: Array) -> float:
    return mean([w * dot(s - t, s - t) / len(s) for s, t, w in zip(student, teacher, weight, strict=True)])


def contrastive_loss(student: Array, teacher: Array, temperature: float, weight: Array) -> float:
    rows = []
    for i, s in enumerate(student):
        rows.append(weight[i] * -log(softmax([cosine(s, t) / temperature for t in teacher])[i]))
    return mean(rows)


def similarity_preserving_loss(student: Array, teacher: Array) -> float:
    def normalised(rows: Array) -> Array:
        size = mean([dot(row, row) for row in rows])
        gram = np.array([[dot(a, b) / size for b in rows] for a in rows])
        return np.array([row / norm(row) for row in gram])

    s, t = normalised(student), normalised(teacher)
    return mean([(p - q) ** 2 for a, b in zip(s, t, strict=True) for p, q in zip(a, b, strict=True)])


def relational_distance_loss(student: Array, teacher: Array) -> float:
    pairs = [(i, j) for i in range(len(student)) for j in range(len(student)) if i != j]

    def relative(rows: Array) -> list[float]:
        distances = [norm(rows[i] - rows[j]) for i, j in pairs]
        return [distance / mean(distances) for distance in distances]

    return mean([huber(s - t) for s, t in zip(relative(student), relative(teacher), strict=True)])


def relational_angle_loss(student: Array, teacher: Array) -> float:
    size = range(len(student))
    triplets = [(i, j, k) for i in size for j in size for k in size if len({i, j, k}) == 3]

    def angles(rows: Array) -> list[float]:
        return [cosine(rows[i] - rows[j], rows[k] - rows[j]) for i, j, k in triplets]

    return mean([huber(s - t) for s, t in zip(angles(student), angles(teacher), strict=True)])


def correlation_congruence_loss(student: Array, teacher: Array, gamma: float, order: int) -> float:
    def kernel(a: Array, b: Array) -> float:
        series = [(2 * gamma) ** p / factorial(p) * cosine(a, b) ** p for p in range(order + 1)]
        return exp(-2 * gamma) * sum(series)

    size = range(len(student))
    return mean([(kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2 for i in size for j in size])


def similarity_matrix(rows: Array) -> list[list[float]]:
    return [[cosine(a, b) for b in rows] for a in rows]


def anchored_rows(teacher: Array, student: Array, top_k: int, anchors: str) -> list[list[list[float]]]:
    """Of embeddings: the teacher's rows and the student's."""
    t, s = similarity_matrix(teacher), similarity_matrix(student)
    chosen = []
    for i, row in enumerate(t):
        others = sorted((value, j) for j, value in enumerate(row) if j != i)
        picked = others[:top_k] if anchors == "least_similar" else others[-top_k:]
        chosen.append([j for _, j in picked])
    result = []
    for matrix in (t, s):
        low = min(min(row) for row in matrix)
        result.append([[matrix[i][j] - low for j in columns] for i, columns in enumerate(chosen)])
    return result


def centroid_loss(student: Array, teacher: Array) -> float:
    """Of embeddings."""
    s, t = similarity_matrix(student), similarity_matrix(teacher)
    size = range(len(s))
    return sqrt(sum((mean([t[i][j] for i in size]) - mean([s[i][j] for i in size])) ** 2 for j in size))


def negative_transfer_gate(gamma: Array, theta: float) -> list[list[float]]:
    return [[g if g <= theta else 1 for g in gamma], [1 if g <= theta else 0 for g in gamma]]


def sequence_gamma(pred: Array, target: Array) -> list[float]:
    """Of the teacher's frames [B, T]."""
    return [1 - concordance(list(zip(x, y, strict=True))) for x, y in zip(pred, target, strict=True)]


def classification_gamma(logits: Array, target: NDArray[np.int64]) -> list[float]:
    """Of the teacher's logits."""
    return [1 - softmax(row)[y] for row, y in zip(logits, target, strict=True)]


def select_teacher(losses: Array, mask: NDArray[np.bool_], per: str) -> list[list[float]]:
    pool = [m for m in range(len(losses)) if mask[m]]
    weights = [[0.0] * losses.shape[1] for _ in losses]
    for i in range(losses.shape[1]):
        best = min(pool, key=lambda m: mean(list(losses[m])) if per == "batch" else losses[m, i])
        weights[best][i] = 1
    return weights


def uniform_weights(losses: Array, mask: NDArray[np.bool_]) -> list[list[float]]:
    return [[float(mask[m]) / sum(mask) for _ in losses[m]] for m in range(len(losses))]


def confidence_weights(losses: Array, mask: NDArray[np.bool_], temperature: float) -> list[list[float]]:
    score = [[float(mask[m]) * exp(-loss / temperature) for loss in losses[m]] for m in range(len(losses))]
    return [[value / sum(row[i] for row in score) for i, value in enumerate(row)] for row in score]


def mix(weights: Array, values: Array) -> list[list[float]]:
    size, width = values.shape[1:]
    return [
        [sum(w[i] * v[i, d] for w, v in zip(weights, values, strict=True)) for d in range(width)] for i in range(size)
    ]


def uncertainty_weighting(losses: Array, log_variances: Array) -> list[float]:
    return [sum(exp(-s) * value + s for value, s in zip(row, log_variances, strict=True)) for row in losses]


def effective_alpha(log_variances: Array) -> list[float]:
    return [exp(-s) / sum(exp(-r) for r in log_variances) for s in log_variances]
