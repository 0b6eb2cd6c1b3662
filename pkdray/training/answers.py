"""A student's answers as a table that people can read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def answers_table(
    sample_ids: Sequence[str], values: np.ndarray, task: str, classes: Sequence[str], targets: Sequence[str]
) -> pd.DataFrame:
    """One row a sample, or a sample's frame where the answers are per frame.

    Args:
        sample_ids: N ids.
        values: probabilities [N, C] or [N, T, C] for classification, regressed targets for regression.
        task: ``classification`` gives ``prediction`` and ``p_<class>``; ``regression`` one column a target.
        classes: the names of the C classes.
        targets: the names of the C targets.

    Example:
        >>> table = answers_table(["a"], np.array([[0.25, 0.75]]), "classification", ["calm", "pain"], ["target"])
        >>> table.iloc[0].to_dict()
        {'sample_id': 'a', 'prediction': 'pain', 'p_calm': 0.25, 'p_pain': 0.75}
    """
    columns: dict[str, object] = {"sample_id": list(sample_ids)}
    if values.ndim == 3:
        frames = values.shape[1]
        columns = {
            "sample_id": np.repeat(list(sample_ids), frames),
            "frame": np.tile(np.arange(frames), len(sample_ids)),
        }
    flat = values.reshape(-1, values.shape[-1])
    if task == "classification":
        columns["prediction"] = [classes[index] for index in flat.argmax(axis=1)]
        columns |= {f"p_{name}": flat[:, index] for index, name in enumerate(classes)}
    else:
        columns |= {name: flat[:, index] for index, name in enumerate(targets)}
    return pd.DataFrame(columns)
