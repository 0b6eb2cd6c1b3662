"""Negative transfer: which teacher taught whom, and whom the gate kept from being taught."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pkdray.config import SupervisedMethod
from pkdray.data.dataset import Dataset
from pkdray.diagnostics.replay import Replay, replay
from pkdray.diagnostics.trials import complete_trial
from pkdray.search.run import Run
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool


@dataclass(frozen=True)
class NegativeTransfer:
    """Who taught whom, over all epochs that a trial trained. Shares are in [0, 1].

    A row is a training sample, or a labelled frame of one where the targets are per frame.

    Args:
        teachers: ``teacher``, ``modalities``, ``rows_taught`` (its share of all rows; of its weight where teachers are
            averaged), ``gate_open`` (of the rows it taught, the share that was distilled; NaN if it taught none),
            ``mean_loss`` and ``mean_gamma`` (over all training rows), ``validation`` (the study's metric).
        by_class: ``group``, ``samples`` (rows), ``gate_open``, and one column a teacher, the share of rows it taught;
            empty for a regression.
        by_subject: the same by subject.
        epochs: how many were replayed.
        theta: the gate's threshold; None for a method without a gate, whose every taught row counts as open.
        history: one row an epoch, equal to what the trial logged: see `replay.Replay`.
        sentence: all of it in plain words.
    """

    teachers: pd.DataFrame
    by_class: pd.DataFrame
    by_subject: pd.DataFrame
    epochs: int
    theta: float | None
    history: pd.DataFrame
    sentence: str


def negative_transfer(run: Run, plan: Plan, dataset: Dataset, pool: Pool, number: int) -> NegativeTransfer | None:
    """How often each teacher taught, and how often the gate stayed open, by class and by subject.

    Nothing is trained: the lessons are held again from the teachers' cached losses (`replay.replay`).

    Args:
        run: the run.
        plan: its plan.
        dataset: its dataset.
        pool: its teacher pool.
        number: of a complete trial.

    Returns:
        None for a supervised trial, which has no teachers.

    Raises:
        RunError: the trial did not run to its end.
        CheckpointError: the teachers' embeddings are missing or damaged.

    Source:
        PKD (2023), Eqs. 5 to 7 (the gate); MT-PKDOT (2025), teacher selection.
    """
    config, said = complete_trial(run, plan, number)
    if isinstance(config.method, SupervisedMethod):
        return None
    epochs = int(said["epochs"])
    seen = replay(plan, config, dataset, pool, epochs)
    theta = getattr(config.method, "theta", None)
    teachers = _teachers(seen, plan, pool)
    by_class = _by(seen, np.empty(0), [])
    if plan.info.task == "classification":
        classes = np.array(plan.info.classes, dtype=object)
        by_class = _by(seen, classes[seen.targets], list(plan.info.classes))
    subjects = dataset.samples["subject_id"].to_numpy(dtype=object)[seen.samples]
    by_subject = _by(seen, subjects, sorted(set(subjects)))
    sentence = _sentence(config.method.name, theta, epochs, seen, teachers, {"class": by_class, "subject": by_subject})
    return NegativeTransfer(teachers, by_class, by_subject, epochs, theta, seen.history, sentence)


def _teachers(seen: Replay, plan: Plan, pool: Pool) -> pd.DataFrame:
    said = pool.read()["teachers"]
    rows = []
    for index, name in enumerate(seen.teachers):
        lessons = seen.taught[index].sum()
        rows.append(
            {
                "teacher": name,
                "modalities": ", ".join(plan.pool[name].modalities),
                "rows_taught": float(lessons / seen.visits.sum()),
                "gate_open": float(seen.distilled[index].sum() / lessons) if lessons else float("nan"),
                "mean_loss": float(np.mean(seen.losses[index], dtype=np.float64)),
                "mean_gamma": float(np.mean(seen.gammas[index], dtype=np.float64)),
                "validation": said[name]["validation"].get(plan.metric.name, float("nan")),
            }
        )
    return pd.DataFrame(rows)


def _by(seen: Replay, groups: np.ndarray, order: list[str]) -> pd.DataFrame:
    """Shares of each group's visits, groups in ``order``; those without a row are left out."""
    rows = []
    for group in order:
        inside = groups == group
        if not inside.any():
            continue
        visits = seen.visits[inside].sum()
        rows.append(
            {
                "group": group,
                "samples": int(inside.sum()),
                "gate_open": _share(seen.opened[inside].sum(), visits),
                **{name: _share(seen.taught[index, inside].sum(), visits) for index, name in enumerate(seen.teachers)},
            }
        )
    return pd.DataFrame(rows, columns=["group", "samples", "gate_open", *seen.teachers])


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _sentence(
    method: str,
    theta: float | None,
    epochs: int,
    seen: Replay,
    teachers: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
) -> str:
    over = f"over {epochs} epoch{'s' * (epochs != 1)}"
    share = _share(seen.opened.sum(), seen.visits.sum())
    if theta is None:
        said = f"{method} ran without a gate, so {_percent(share)} of the training rows were distilled {over}."
    elif share == 1:
        said = f"The gate (theta {theta:.3g}) never closed {over}: every training row was distilled."
    else:
        said = (
            f"The gate (theta {theta:.3g}) left {_percent(share)} of the training rows to distillation {over}; "
            "the others were learnt from their labels alone."
        )
        lowest = [
            f"{kind} '{row['group']}' (open for {_percent(row['gate_open'])})"
            for kind, table in tables.items()
            # A group of one row is a row: which of them was never taught says nothing of the others.
            if table["gate_open"].nunique() > 1 and table["samples"].sum() >= 2 * len(table)
            for row in [table.iloc[int(np.nanargmin(table["gate_open"]))]]
        ]
        if lowest:
            said += f" It was closed most often for {' and '.join(lowest)}."
    ranked = teachers.sort_values("rows_taught", ascending=False, kind="stable")
    if len(ranked) == 1:
        return f"{said} '{ranked['teacher'].iloc[0]}' was the only teacher."
    most, least = (
        f"'{row['teacher']}' taught {word} ({_percent(row['rows_taught'])} of the rows)"
        for row, word in ((ranked.iloc[0], "most"), (ranked.iloc[-1], "least"))
    )
    return f"{said} Of {len(ranked)} teachers {most} and {least}."


def _percent(share: float) -> str:
    """A share in percent, which is 100 or 0 only where nothing, or everything, is missing."""
    text = f"{100 * share:.1f}"
    if text == "100.0" and share < 1:
        return "more than 99.9 %"
    if text == "0.0" and share > 0:
        return "less than 0.1 %"
    return f"{text.removesuffix('.0')} %"
