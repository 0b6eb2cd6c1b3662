"""Write golden.json: every loss in float64, from NumPy and the equations alone.

The equations are in golden_equations.py, transport is in golden_transport.py, and this file has the inputs: sines, so
that no random stream is needed. Nothing is imported from the package under test.

Run: python tests/losses/make_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path

import golden_equations as equations
import numpy as np
from golden_transport import divergence, pkdot
from numpy.typing import NDArray

Array = NDArray[np.float64]
GOLDEN = Path(__file__).with_name("golden.json")


def cloud(rows: int, columns: int, phase: float) -> Array:
    """Points without a random stream: sines of incommensurable frequencies."""
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return 0.4 * np.sin(1.3 * i + 2.17 * j + 0.31 * i * j + phase)


B, T, N, D, E, C, M = 13, 17, 2, 7, 11, 5, 3  # rows, frames, targets, widths of student and teacher, classes, teachers

STUDENT, TEACHER, WIDE = cloud(B, D, 0.4), cloud(B, D, 0.0), cloud(B, E, 1.0)
LOGITS, OTHER_LOGITS = 5 * cloud(B, C, 0.4), 5 * cloud(B, C, 1.1)
LEVELS = np.arange(B) * 3 % C
WEIGHT = cloud(B, 1, 0.2)[:, 0] + 0.5
SEEN = cloud(B, D, 2.0) > -0.1
FRAMES, LABELS = cloud(B, T * N, 0.4).reshape(B, T, N), cloud(B, T * N, 0.9).reshape(B, T, N)
OBSERVED = (cloud(B, T * N, 3.0) > -0.2).reshape(B, T, N)
OBSERVED[4, :, 0] = False  # one sequence of which nothing is seen
GAMMA = 2.5 * (cloud(B, 1, 0.6)[:, 0] + 0.4)
POOL, AVAILABLE = cloud(M, B, 0.3) + 0.5, np.array([True, False, True])
EMBEDDINGS = cloud(M, B * D, 0.1).reshape(M, B, D)
SEVERAL, LOG_VARIANCES = cloud(B, M, 0.8) + 0.5, cloud(1, M, 0.5)[0]

# name: the equation and its arguments; test_golden.py hands the same arguments to the package.
CASES: dict[str, tuple[object, ...]] = {
    "ccc": (equations.ccc, FRAMES, LABELS),
    "ccc_loss": (equations.ccc_loss, FRAMES, LABELS, OBSERVED),
    "ccc_loss per sequence": (equations.ccc_loss_per_sequence, FRAMES, LABELS, OBSERVED),
    "cross_entropy_loss": (equations.cross_entropy_loss, LOGITS, LEVELS, WEIGHT),
    "mse_loss": (equations.mse_loss, STUDENT, TEACHER, SEEN, WEIGHT),
    "ordinal_loss": (equations.ordinal_loss, LOGITS[:, 1:], LEVELS, WEIGHT),
    "cumulative_logits": (equations.cumulative_logits, LOGITS),
    "ordinal_probabilities": (equations.ordinal_probabilities, -np.sort(-LOGITS[:, 1:])),
    "ordinal_probabilities out of order": (equations.ordinal_probabilities, LOGITS[:, 1:]),
    "cosine_loss": (equations.cosine_loss, STUDENT, TEACHER, WEIGHT),
    "kl_loss": (equations.kl_loss, LOGITS, OTHER_LOGITS, 2.5, WEIGHT),
    "hint_loss": (equations.hint_loss, STUDENT, TEACHER, WEIGHT),
    "contrastive_loss": (equations.contrastive_loss, STUDENT, TEACHER, 0.3, WEIGHT),
    "similarity_preserving_loss": (equations.similarity_preserving_loss, STUDENT, WIDE),
    "relational_distance_loss": (equations.relational_distance_loss, STUDENT, WIDE),
    "relational_angle_loss": (equations.relational_angle_loss, STUDENT, WIDE),
    "correlation_congruence_loss": (equations.correlation_congruence_loss, STUDENT, WIDE, 0.4, 2),
    "correlation_congruence_loss of order 5": (equations.correlation_congruence_loss, STUDENT, WIDE, 1.7, 5),
    "similarity_matrix": (equations.similarity_matrix, STUDENT),
    "anchored_rows": (equations.anchored_rows, WIDE, STUDENT, 5, "least_similar"),
    "anchored_rows most similar": (equations.anchored_rows, WIDE, STUDENT, 5, "most_similar"),
    "centroid_loss": (equations.centroid_loss, STUDENT, WIDE),
    "negative_transfer_gate": (equations.negative_transfer_gate, GAMMA, 0.7),
    "sequence_gamma": (equations.sequence_gamma, FRAMES[..., 0], LABELS[..., 0]),
    "classification_gamma": (equations.classification_gamma, LOGITS, LEVELS),
    "select_teacher": (equations.select_teacher, POOL, AVAILABLE, "batch"),
    "select_teacher per sample": (equations.select_teacher, POOL, AVAILABLE, "sample"),
    "uniform_weights": (equations.uniform_weights, POOL, AVAILABLE),
    "confidence_weights": (equations.confidence_weights, POOL, AVAILABLE, 0.3),
    "mix": (equations.mix, POOL, EMBEDDINGS),
    "uncertainty_weighting": (equations.uncertainty_weighting, SEVERAL, LOG_VARIANCES),
    "effective_alpha": (equations.effective_alpha, LOG_VARIANCES),
}


def golden() -> dict[str, list[dict[str, object]]]:
    divergences: list[dict[str, object]] = []
    for n, m, k in ((7, 7, 3), (13, 29, 5), (29, 29, 11)):
        for epsilon in (1.0, 0.1, 0.02):
            value, gradient = divergence(cloud(n, k, 0.0), cloud(m, k, 0.7), epsilon)
            divergences.append(
                {"n": n, "m": m, "k": k, "epsilon": epsilon, "value": value, "gradient": gradient.round(9).tolist()}
            )
    transports: list[dict[str, object]] = []
    for size, width, top_k in ((13, 7, 5), (29, 17, 11)):
        for anchors in ("least_similar", "most_similar"):
            for epsilon in (0.1, 0.01):
                student, teacher = cloud(size, width, 0.4), cloud(size, width + 2, 0.0)
                value = pkdot(student, teacher, epsilon, top_k, anchors)
                transports.append(
                    {
                        "size": size,
                        "width": width,
                        "top_k": top_k,
                        "anchors": anchors,
                        "epsilon": epsilon,
                        "value": value,
                    }
                )
    losses: list[dict[str, object]] = []
    for name, (equation, *arguments) in CASES.items():
        value = np.array(equation(*arguments))  # type: ignore[operator]
        losses.append({"loss": name, "shape": list(value.shape), "value": value.ravel().tolist()})
    return {"divergence": divergences, "pkdot": transports, "losses": losses}


if __name__ == "__main__":
    lines = [
        f'"{name}": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]" for name, cases in golden().items()
    ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
