"""Embeddings in two dimensions, to be looked at."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pkdray.data.dataset import Dataset
from pkdray.diagnostics.spaces import spaces
from pkdray.search.run import Run
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool

_COMPONENTS = 50
"""What PCA leaves of an embedding before t-SNE: van der Maaten and Hinton (2008) took 30, scikit-learn advises 50."""
_PERPLEXITY = 30.0


def projections(
    run: Run, plan: Plan, dataset: Dataset, pool: Pool, number: int, samples: int = 400, seed: int = 0
) -> pd.DataFrame:
    """Lay out validation rows as the teacher sees them, and as a trial's student does before and after its training.

    Each space is laid out by itself: who is near whom can be compared between spaces, places and distances cannot.

    Args:
        run: the run.
        plan: its plan.
        dataset: its dataset.
        pool: its teacher pool.
        number: of a complete trial.
        samples: at most so many rows, drawn by ``seed``.
        seed: of the draw and of t-SNE.

    Returns:
        ``space`` ("teacher", "student before", "student after"), ``x``, ``y``, ``sample_id``, ``subject_id``,
        ``target`` (the class, or the number of the first target). Its ``attrs["total"]`` is how many rows validation
        has, of which some were drawn.

    Raises:
        RunError: the trial did not run to its end, or has lost its weights.
        CheckpointError: the teachers' embeddings are missing or damaged.

    Source:
        van der Maaten and Hinton (2008), by scikit-learn.
    """
    seen = spaces(run, plan, dataset, pool, number, samples, seed)
    about = dataset.samples.iloc[seen.samples]
    tables = []
    for space, embedding in (
        ("teacher", seen.teacher),
        ("student before", seen.before),
        ("student after", seen.after),
    ):
        flat = two_dimensional(embedding.numpy(), seed)
        tables.append(
            pd.DataFrame(
                {
                    "space": space,
                    "x": flat[:, 0],
                    "y": flat[:, 1],
                    "sample_id": about["sample_id"].to_numpy(),
                    "subject_id": about["subject_id"].to_numpy(),
                    "target": seen.targets,
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    table.attrs["total"] = seen.total
    return table


def two_dimensional(values: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE of rows [n, D] to [n, 2], after PCA and starting from it; the same for the same seed.

    Rows of one or two numbers are drawn as they are, and so are fewer than four rows, which have no neighbourhoods.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if values.shape[1] <= 2 or len(values) < 4:
        padded = np.pad(values, ((0, 0), (0, max(0, 2 - values.shape[1]))))
        return padded[:, :2].astype(np.float64)
    main = PCA(min(_COMPONENTS, *values.shape), svd_solver="full").fit_transform(values.astype(np.float64))
    # Each row's neighbours must be fewer than the others there are; a third of them is scikit-learn's own default.
    perplexity = min(_PERPLEXITY, (len(values) - 1) / 3)
    flat = TSNE(2, init="pca", perplexity=perplexity, random_state=seed, n_jobs=1).fit_transform(main)
    return np.asarray(flat, dtype=np.float64)
