"""Training the teachers, and aligning the adapters that recycle the first of them (MT-PKDOT)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from pkdray import mirrors
from pkdray.embeddings import Arrays, Rows
from pkdray.errors import CheckpointError
from pkdray.files import fingerprint, write_atomic, write_yaml
from pkdray.losses.objective import StudentRows, task_loss
from pkdray.losses.point import cosine_loss
from pkdray.models.networks import Adapters, Teacher
from pkdray.models.weights import no_pretrained_weights
from pkdray.training.checkpoints import load_tensors, load_trained, load_weights, save_tensors, trained_state
from pkdray.training.folders import fetch_folder
from pkdray.training.inputs import forward_all, input_name, inputs_of, labelled_rows, present
from pkdray.training.loop import LAST, Batch, Fitted, Forward, Hparams, Report, derive_seed, fit
from pkdray.training.metrics import evaluate
from pkdray.training.parallel import Workers
from pkdray.training.plan import Member, Plan
from pkdray.training.pools import MODEL_FILE


def build_teacher(plan: Plan, member: Member) -> Teacher:
    """The teacher's network with fresh weights."""
    return Teacher(plan.config.teachers, plan.shapes(member.modalities), plan.task)


def build_adapters(plan: Plan) -> Adapters:
    """The adapters' network with fresh weights, for the first teacher's modalities."""
    teachers = plan.config.teachers
    widths = {
        name: teachers.encoders.get(name, teachers.encoder).hidden[-1]
        for name in plan.pool[plan.first_teacher].modalities
    }
    return Adapters(teachers, widths, plan.task)


def train_teacher(
    plan: Plan,
    member: Member,
    arrays: Mapping[str, Arrays],
    folder: Path,
    *,
    report: Report | None = None,
    device: str = "cpu",
    workers: Workers | None = None,
) -> dict[str, float]:
    """Train one teacher on the labels and write it to its folder; returns its validation metrics.

    A folder that already holds this teacher is left as it is; one with training state is continued.

    Raises:
        DivergedError, StorageError: see `loop.fit`.
    """
    identity = _identity(plan, member.name)
    fetch_folder(folder, workers)
    done = _finished(folder, identity)
    if done is not None:
        return done
    index = list(plan.pool).index(member.name)
    torch.manual_seed(derive_seed(plan.config.seed, index))
    modalities = list(member.modalities)
    rows = {split: _rows(arrays[split], modalities, device) for split in ("train", "val")}

    def step(forward: Forward, batch: Batch, _hparams: Hparams) -> tuple[Tensor, dict[str, Tensor]]:
        output = forward(inputs_of(batch, modalities))
        return _label_loss(plan, output.embedding, output.prediction, batch["target"]), {}

    def validate(model: nn.Module) -> dict[str, float]:
        output, target = _whole(model, rows["val"], modalities, workers)
        return _scores(plan, output.prediction, target)

    fitted = fit(
        build_teacher(plan, member).to(device),
        step,
        rows["train"],
        config=plan.config.teachers.training,
        metric=plan.metric,
        validate=validate,
        seed=derive_seed(plan.config.seed, index),
        identity=identity,
        folder=folder,
        report=report,
        workers=workers,
        readers=plan.resources.readers,
    )
    if workers is None or workers.rank == 0:
        _write(folder, fitted, identity, plan, {"name": member.name, "modalities": modalities})
    return fitted.best


def train_adapters(
    plan: Plan, teacher: Teacher, arrays: Mapping[str, Arrays], folder: Path, *, device: str = "cpu"
) -> dict[str, float]:
    """Align one adapter and head per modality with the frozen teacher's joint embedding; returns validation metrics.

    L = 1/2 sum_m (1 - cos(adapter_m(x_m), z_joint)) + 1/2 mean_m L_task(head_m) (MT-PKDOT's self-distillation; the
    joint teacher is frozen by then, so its own cross-entropy is a constant and left out). The best epoch is that of
    the best mean metric over the modalities.
    """
    first = plan.pool[plan.first_teacher]
    # With the teacher's own weights: where it had to be trained again, adapters of the old one do not fit.
    identity = fingerprint({"adapters": _identity(plan, first.name), "teacher": _digest(teacher)})
    fetch_folder(folder)
    done = _finished(folder, identity)
    if done is not None:
        return done
    modalities = list(first.modalities)
    teacher.to(device).eval().requires_grad_(False)
    rows = {}
    for split in ("train", "val"):
        output, target = _whole(teacher, _rows(arrays[split], modalities, device), modalities)
        # The teacher is frozen, so its features are as good as data: computed once, not once an epoch.
        frozen = {
            "target": target,
            "joint": output.embedding,
            **{input_name(m): output.features[m] for m in modalities},
        }
        rows[split] = Rows({name: values.cpu().numpy() for name, values in frozen.items()}, device)

    def step(forward: Forward, batch: Batch, _hparams: Hparams) -> tuple[Tensor, dict[str, Tensor]]:
        adapted = forward(inputs_of(batch, modalities))
        _, rows_of = labelled_rows(plan.info, batch["target"])
        joint = rows_of(batch["joint"], 1)
        alignment = torch.stack([cosine_loss(rows_of(embedding, 1), joint) for embedding, _ in adapted.values()]).sum()
        labels = torch.stack(
            [_label_loss(plan, embedding, prediction, batch["target"]) for embedding, prediction in adapted.values()]
        ).mean()
        return 0.5 * alignment + 0.5 * labels, {"alignment": alignment, "task": labels}

    def validate(model: nn.Module) -> dict[str, float]:
        target = rows["val"].column("target")
        each = {
            name: _scores(plan, prediction, target)
            for name, (_, prediction) in forward_all(model, rows["val"], modalities).items()
        }
        mean = {
            metric: sum(scores[metric] for scores in each.values()) / len(each) for metric in next(iter(each.values()))
        }
        return {
            **mean,
            **{f"{name}/{metric}": value for name, scores in each.items() for metric, value in scores.items()},
        }

    torch.manual_seed(derive_seed(plan.config.seed, len(plan.pool)))
    fitted = fit(
        build_adapters(plan).to(device),
        step,
        rows["train"],
        config=plan.config.teachers.adapters.training,
        metric=plan.metric,
        validate=validate,
        seed=derive_seed(plan.config.seed, len(plan.pool)),
        identity=identity,
        folder=folder,
    )
    _write(folder, fitted, identity, plan, {"adapters_of": first.name, "modalities": modalities})
    return fitted.best


def load_teacher(plan: Plan, member: Member, folder: Path) -> Teacher:
    """A trained teacher, frozen and in evaluation mode.

    Raises:
        CheckpointError: missing, damaged or of another shape; or so is the file of a frozen backbone's weights.
    """
    with no_pretrained_weights(but_frozen=True):
        teacher = build_teacher(plan, member)
    load_trained(teacher, load_tensors(folder / MODEL_FILE)[0], folder / MODEL_FILE)
    return teacher.eval().requires_grad_(False)


def load_adapters(plan: Plan, folder: Path) -> Adapters:
    """The trained adapters, frozen and in evaluation mode.

    Raises:
        CheckpointError: missing, damaged or of another shape.
    """
    adapters = build_adapters(plan)
    load_weights(adapters, load_tensors(folder / MODEL_FILE)[0], folder / MODEL_FILE)
    return adapters.eval().requires_grad_(False)


def _identity(plan: Plan, name: str) -> str:
    return fingerprint({"pool": plan.pool_fingerprint, "teacher": name})


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _finished(folder: Path, identity: str) -> dict[str, float] | None:
    try:
        _, meta = load_tensors(folder / MODEL_FILE)
    except CheckpointError:
        return None
    return meta["best"] if meta["identity"] == identity else None


def _write(folder: Path, fitted: Fitted, identity: str, plan: Plan, what: dict[str, Any]) -> None:
    curves = pd.DataFrame(fitted.history)
    write_atomic(folder / "curves.parquet", lambda temporary: curves.to_parquet(temporary, index=False))
    config = {**what, "identity": identity, "teachers": plan.config.teachers.model_dump(mode="json")}
    write_yaml(folder / "config.yaml", config)
    save_tensors(folder / MODEL_FILE, trained_state(fitted.model), {"identity": identity, "best": fitted.best})
    (folder / LAST).unlink(missing_ok=True)
    mirrors.push(folder, gone=True)


def _rows(arrays: Arrays, modalities: list[str], device: str) -> Rows:
    return Rows({name: arrays[name] for name in ["target", *present(arrays, modalities)]}, device)


def _whole(model: nn.Module, rows: Rows, modalities: list[str], workers: Workers | None = None) -> tuple[Any, Tensor]:
    return forward_all(model, rows, modalities, workers=workers), rows.column("target")


def _label_loss(plan: Plan, embedding: Tensor, prediction: Tensor, target: Tensor) -> Tensor:
    targets, rows = labelled_rows(plan.info, target)
    return task_loss(StudentRows(rows(embedding, 1), rows(prediction, 1), targets), plan.task_loss)


def _scores(plan: Plan, prediction: Tensor, target: Tensor) -> dict[str, float]:
    targets, rows = labelled_rows(plan.info, target)
    return evaluate(rows(prediction, 1), targets, plan.info.task)
