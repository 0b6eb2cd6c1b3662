"""A run's folder as a sweep leaves it, made without training anything, with names that try to break a page."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from pkdray.config import build_config
from pkdray.data.dataset import Dataset, DatasetInfo, Modality, write_dataset
from pkdray.evaluate import FORMAT
from pkdray.search.results import PREDICTIONS, trials_table
from pkdray.search.run import POOLS, Run, fixed_values, sampler_for
from pkdray.search.space import suggest
from pkdray.training.answers import answers_table
from pkdray.training.plan import Plan, make_plan
from pkdray.training.pools import MODEL_FILE, Pool

CLASSES = ("calm</script><script>boom()</script>", "joy & <b>fun</b>", "fear", "%{x} \u2028 pain")
SUBJECT = "<i>p"
FRAMES, SAMPLES, SUBJECTS = 6, 131, 23
TRIALS = 27
SPACE: dict[str, Any] = {
    "training.learning_rate": {"float": [1e-4, 3e-2], "log": True},
    "method.name": {"choice": ["pkd", "pkdot", "mt-pkdot"]},
    "method.alpha": [
        {"float": [0.1, 0.9], "when": {"method.name": "pkd"}},
        {"float": [0.05, 2.0], "log": True, "when": {"method.name": ["pkdot", "mt-pkdot"]}},
    ],
    "method.epsilon": {"float": [0.01, 1.0], "log": True, "when": {"method.name": ["pkdot", "mt-pkdot"]}},
    "method.top_k": {"int": [3, 20], "when": {"method.name": ["pkdot", "mt-pkdot"]}},
    "method.teachers": {"subset": ["joint", "voice"], "min": 1, "when": {"method.name": "mt-pkdot"}},
}


def make_dataset(dest: Path, task: str) -> Dataset:
    """131 samples of 23 subjects; regression has two targets a frame, and frames without a label."""
    rng = np.random.default_rng(5)
    subject = np.sort(np.concatenate([np.arange(SUBJECTS), rng.integers(0, SUBJECTS, SAMPLES - SUBJECTS)]))
    columns: dict[str, Any] = {
        "sample_id": [f"s{index:03d}" for index in range(SAMPLES)],
        "subject_id": [f"{SUBJECT}{index:02d}" for index in subject],
        "sequence_id": [f"q{index:02d}<u>" for index in subject],
        "split": np.where(subject % 5 < 3, "train", np.where(subject % 5 == 3, "val", "test")),
    }
    about: dict[str, Any] = {"classes": CLASSES}
    if task == "classification":
        columns["target"] = np.arange(SAMPLES) % len(CLASSES)
    else:
        values = rng.normal(size=(SAMPLES, FRAMES, 2)).astype(np.float32)
        values[::4, 2, 1] = np.nan
        columns |= {f"target_{name}": list(values[..., index]) for index, name in enumerate(("valence", "arousal"))}
        about = {"targets": ("valence", "arousal"), "target_frames": FRAMES, "missing_targets": True}
    steps = () if task == "classification" else (FRAMES,)
    features = {name: rng.normal(size=(SAMPLES, *steps, size)).astype(np.float32) for name, size in
                (("face", 5), ("voice", 7))}  # fmt: skip
    modalities = {name: Modality(shape=one.shape[1:]) for name, one in features.items()}
    info = DatasetInfo(name='tiny <b>"set"</b>', task=task, modalities=modalities, **about)  # type: ignore[arg-type]
    return write_dataset(dest, info, pd.DataFrame(columns), features)


def make_run(folder: Path, task: str, *, evaluated: bool, trials: int = TRIALS) -> Run:
    """A finished run below ``folder``/runs: every fourth trial pruned, one failed, the others complete."""
    dataset = make_dataset(folder / "data", task)
    config = build_config(
        {
            "name": "tiny",
            "seed": 3,
            "dataset": {"path": str(dataset.path), "prevalent": ["face"]},
            "teachers": {"pool": [{"name": "joint"}], "adapters": {"enabled": True}},
            "search": {"trials": trials, "startup_trials": trials, "space": SPACE},
        }
    )
    plan = make_plan(config, dataset)
    run = Run.create(folder / "runs" / "tiny", plan)
    _make_pool(plan, run.runs_dir / POOLS)
    best = _make_trials(run, plan, trials)
    _make_best(run, plan, dataset, best, ["val", "test"] if evaluated else ["val"])
    if evaluated:
        said = evaluation(plan.metric.name, best)
        (run.path / "evaluation.json").write_text(json.dumps(said))
        openings = [{"at": f"2026-01-0{day}T03:04:05+00:00", "request": said["request"]} for day in (1, 2)]
        (run.path / "test_opened.json").write_text(json.dumps({"openings": openings}))
    return run


def _make_trials(run: Run, plan: Plan, trials: int) -> int:
    rng = np.random.default_rng(11)
    ledger, fixed = run.ledger(), fixed_values(plan.config)
    for index in range(trials):
        trial = ledger.ask(sampler_for(plan.config))
        drawn = suggest(plan.config.search.space, trial, fixed)
        top = 0.5 + 0.4 * rng.random()
        epochs = 4 if index % 4 == 3 else 9
        values = [round(top * (1 - 0.7**epoch), 4) for epoch in range(1, epochs + 1)]
        for epoch, value in enumerate(values[: 8 if epochs == 9 else None], start=1):
            ledger.report(trial.number, epoch, value)
        where = {"node": f"node{index % 2}", "device": "cpu", "seconds": 0.5}
        if index == 5:
            # Of an older pkdray, which recorded no computer.
            ledger.fail(trial.number, "loss <b>diverged</b> & stopped")
        elif epochs == 4:
            ledger.prune(trial.number, where)
        else:
            summary = {
                "method": drawn["method.name"],
                "epoch": 9,
                "epochs": 9,
                **where,
                "seconds": 1.5,
                "teachers": {"joint": 0.75, "voice": 0.2},
            }
            ledger.complete(trial.number, values[-1], summary)
            curves = pd.DataFrame(
                {
                    "epoch": np.arange(1.0, 10.0),
                    "train/loss": 1 / np.arange(1.0, 10.0),
                    "train/task": 0.7 / np.arange(1.0, 10.0),
                    "train/gate_open": 1.0,
                    plan.metric.name: values,
                    "best": values,
                }
            )
            run.trial(trial.number).mkdir(parents=True)
            curves.to_parquet(run.trial(trial.number) / "curves.parquet")
    trials_table(ledger).to_parquet(run.path / "trials.parquet")
    best = ledger.best()
    assert best is not None
    return best.number


def _make_pool(plan: Plan, pools: Path) -> None:
    pool = Pool.at(pools, plan)
    for member in plan.pool.values():
        folder = pool.adapters(member.adapter_of) if member.adapter_of else pool.teacher(member.name)
        for path in (folder / MODEL_FILE, pool.embeddings(member.name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not read")
    metrics = {name: {plan.metric.name: 0.9 - 0.1 * index} for index, name in enumerate(plan.pool)}
    pool.write(plan, metrics)


def _make_best(run: Run, plan: Plan, dataset: Dataset, number: int, splits: list[str]) -> None:
    rng = np.random.default_rng(7)
    run.best.mkdir()
    (run.best / "metrics.json").write_text(json.dumps({"trial": number, "validation": {}}))
    for split in splits:
        rows = dataset.rows(split)
        shape = (len(rows), *([FRAMES] if plan.task.per_frame else []), plan.task.outputs)
        values = rng.normal(size=shape).astype(np.float32)
        if plan.info.task == "classification":
            values[np.arange(len(rows)), dataset.targets()[rows]] += 1.5
            values = np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)
        else:
            values = 0.6 * np.nan_to_num(dataset.targets()[rows]) + 0.4 * values
        ids = dataset.samples["sample_id"].iloc[rows].tolist()
        table = answers_table(ids, values, plan.info.task, list(plan.info.classes), list(plan.info.targets))
        table.to_parquet(run.best / PREDICTIONS.format(split=split))


def evaluation(metric: str, trial: int) -> dict[str, Any]:
    """evaluation.json of three seeds, from small numbers."""

    def method(label: str, what: str, values: list[float], interval: list[float] | None) -> dict[str, Any]:
        pairs = [
            {
                "fold": None,
                "seed": seed,
                "validation": {metric: value},
                "test": {metric: value},
                "seconds": 2.0,
                "node": "node7",
                "device": "cpu",
            }
            for seed, value in enumerate(values)
        ]  # fmt: skip
        return {
            "label": label, "what": what, "method": "pkd", "tnet": "none", "trial": trial, "configuration": {},
            "tuned": 3, "pairs": pairs,
            "values": values, "validation": values, "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if interval else None, "interval": interval,
        }  # fmt: skip

    def comparison(against: str, difference: float, verdict: str, sentence: str) -> dict[str, Any]:
        return {
            "method": "student", "against": against, "pairs": 3, "difference": difference,
            "interval": [difference - 0.05, difference + 0.05], "effect_size": 2.5, "wins": 3, "ties": 0,
            "tests": {
                "wilcoxon": {"p": 0.25, "p_holm": 0.5},
                "bootstrap": {"p": 0.00001, "p_holm": 0.00002, "interval": [difference - 0.04, difference + 0.04]},
            },
            "verdict": verdict, "family": 2, "more_seeds": None if verdict == "helped" else 12, "sentence": sentence,
        }  # fmt: skip

    return {
        "format": FORMAT, "run": "tiny", "dataset": "tiny", "trial": trial, "metric": metric, "mode": "max",
        "request": {"trial": trial, "seeds": [3, 4, 5], "folds": [None], "top": 1, "against": ["kl"],
                    "trials": [trial]},
        "confidence": 0.95, "seeds": [3, 4, 5], "folds": [None],
        "test_opened": {"at": "2026-01-02T03:04:05+00:00", "times": 2},
        "candidates": [{"trial": trial, "rank": 1, "search": 0.8, "validation": 0.8, "chosen": True}],
        "methods": {
            "lower_bound": method("lower bound", "face and labels alone", [0.60, 0.62, 0.58], [0.55, 0.65]),
            "student": method("student", "face, <b>pkd</b>", [0.70, 0.71, 0.69], [0.67, 0.73]),
            "kl": method("kl", "face, kl", [0.68, 0.70, 0.69], [0.66, 0.72]),
            "teacher": method("upper bound", "teacher joint", [0.80], None),
        },
        "comparisons": [
            comparison("lower_bound", 0.1, "helped", "Distillation helped: +0.1000 over the lower bound & more."),
            comparison("kl", 0.01, "not enough evidence", "Not enough evidence against kl."),
        ],
        "notes": ["The test split has been opened 2 times."],
        "student": {"validation": {metric: 0.7}, "test": {metric: 0.7}},
        "subgroups": {"class": [{"name": name, "samples": 9, metric: 0.5} for name in CLASSES], "subject": []},
        "seconds": 12.5,
    }  # fmt: skip


def pretend_diagnostics(task: str) -> ModuleType:
    """`pkdray.diagnostics` with answers of the right shapes, which needs no weights."""
    rng = np.random.default_rng(13)
    teachers = ["joint", "voice"]

    def negative_transfer(*_: Any) -> SimpleNamespace:
        def groups(names: list[str]) -> pd.DataFrame:
            share = rng.random(len(names))
            return pd.DataFrame(
                {"group": names, "samples": 9, "gate_open": rng.random(len(names)), "joint": share, "voice": 1 - share}
            )

        table = pd.DataFrame(
            {"teacher": teachers, "modalities": ["face, voice", "voice"], "rows_taught": [0.75, 0.2], "gate_open":
             [0.9, np.nan], "mean_loss": [0.3, 0.5], "mean_gamma": [0.8, 0.6], "validation": [0.9, 0.7]}
        )  # fmt: skip
        by_class = groups(list(CLASSES)) if task == "classification" else pd.DataFrame()
        subjects = groups([f"{SUBJECT}{index:02d}" for index in range(SUBJECTS)])
        return SimpleNamespace(
            teachers=table, by_class=by_class, by_subject=subjects, epochs=9, sentence="joint <b>taught</b> most rows."
        )

    def similarity(*_: Any, **__: Any) -> SimpleNamespace:
        def matrix(size: int) -> np.ndarray:
            rows = rng.normal(size=(size, 3))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            return rows @ rows.T

        labels = (
            [CLASSES[index % 4] for index in range(13)] if task == "classification" else [f"{i}.0" for i in range(13)]
        )
        return SimpleNamespace(
            labels=labels, teacher=matrix(13), before=matrix(13), after=matrix(13), teacher_name="joint",
            agreement={"before": 0.1, "after": 0.8}, total=31,
        )  # fmt: skip

    def projections(*_: Any, **__: Any) -> pd.DataFrame:
        tables = []
        for space in ("teacher", "student before", "student after"):
            target = [CLASSES[i % 4] for i in range(29)] if task == "classification" else rng.normal(size=29)
            tables.append(
                pd.DataFrame({"space": space, "x": rng.normal(size=29), "y": rng.normal(size=29), "sample_id":
                              [f"s{i}" for i in range(29)], "subject_id": SUBJECT, "target": target})
            )  # fmt: skip
        table = pd.concat(tables, ignore_index=True)
        table.attrs["total"] = 31
        return table

    def costs(run: Run, plan: Plan, numbers: list[int]) -> pd.DataFrame:
        who = ["teacher joint", "lower bound", *(f"trial {number}" for number in numbers)]
        return pd.DataFrame(
            {"who": who, "trial": [None, None, *numbers], "parameters": 1000.0 + 70 * np.arange(len(who)), "macs":
             900.0 + 70 * np.arange(len(who)), "latency_ms": 0.1 + 0.01 * np.arange(len(who)), "value":
             [0.9, None, *[0.7] * len(numbers)]}
        )  # fmt: skip

    module = ModuleType("pkdray.diagnostics")
    for function in (negative_transfer, similarity, projections, costs):
        setattr(module, function.__name__, function)
    return module
