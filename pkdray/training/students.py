"""Training a student: its T-Net first where that is frozen, then the student itself against the frozen teachers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pkdray import mirrors
from pkdray.config import Config
from pkdray.embeddings import Arrays, Rows
from pkdray.errors import CheckpointError
from pkdray.files import fingerprint
from pkdray.losses.objective import StudentRows, TeacherRows, build_objective, hyperparameters
from pkdray.losses.task import mse_loss
from pkdray.models.networks import Student, build_tnet
from pkdray.models.tnet import TNet
from pkdray.models.weights import no_pretrained_weights
from pkdray.training.checkpoints import load_tensors, load_trained, save_tensors, trained_state
from pkdray.training.frozen import with_steps
from pkdray.training.inputs import TEACHER_FIELDS, forward_all, inputs_of, labelled_rows, student_rows
from pkdray.training.loop import Batch, Fitted, Forward, Hparams, Report, Step, derive_seed, fit
from pkdray.training.metrics import Metric, evaluate
from pkdray.training.parallel import Workers
from pkdray.training.plan import Plan
from pkdray.training.pretrained import identified

_TNET_STREAM, _STUDENT_STREAM = 1, 2
"""Separate random streams, so that a student's initial weights do not depend on whether its T-Net came from a cache."""

FORMAT = 2
"""Raise when the same config makes another network, or its files mean something else: unfinished trials begin anew."""

TNET_METRIC = Metric("mse", "regression", "min", mse_loss)


def train_student(
    plan: Plan,
    config: Config,
    arrays: Mapping[str, Arrays],
    *,
    seed: int,
    folder: Path | None = None,
    tnets: Path | None = None,
    frozen: Path | None = None,
    report: Report | None = None,
    device: str = "cpu",
    workers: Workers | None = None,
) -> Fitted:
    """Train one student as ``config`` says, on arrays that already hold what the frozen teachers said.

    Args:
        plan: the study.
        config: the trial's config: the study's with the proposed values.
        arrays: ``train`` and ``val`` of `inputs.with_embeddings`.
        seed: of weights, order and dropout.
        folder: where training state is kept and continued from.
        tnets: a folder in which frozen T-Nets are shared between the trainings that would make the same one.
        frozen: a folder with the steps of frozen backbones (`frozen.with_steps`); without it their pictures are gone
            through every epoch.
        report: called after every epoch.
        device: torch's name of the device.
        workers: this process's place among data-parallel workers, each of whom calls this with the same arguments.

    Raises:
        CheckpointError: the file of a backbone's weights is missing, damaged or another one.
        DivergedError: the loss is no longer finite.
        StorageError: the folder cannot be written.
    """
    workers = workers or Workers()
    arrays = with_steps(plan, config.student, arrays, frozen, device)
    teachers = plan.teachers_of(config)
    distils_features = uses_tnet(plan, config)
    tnet = _tnet(plan, config, arrays, seed, tnets, device, workers) if distils_features else None
    student = initial_student(plan, config, tnet, seed).to(device)
    joint = tnet is not None and config.student.tnet.training == "joint"
    train = student_rows(arrays["train"], plan.prevalent, teachers, privileged=joint, device=device)
    val = student_rows(arrays["val"], plan.prevalent, [], privileged=False, device=device)
    return fit(
        student,
        student_step(plan, config),
        train,
        config=config.training,
        metric=plan.metric,
        validate=lambda model: scores(model, val, plan, workers),
        hparams=hyperparameters(config.method, device),
        seed=seed,
        identity=student_identity(plan, config, seed),
        folder=folder,
        report=report,
        workers=workers,
        readers=plan.resources.readers,
    )


def uses_tnet(plan: Plan, config: Config) -> bool:
    """Whether the student has a T-Net: asked for, and the first teacher has features to hallucinate."""
    return config.student.tnet.training != "none" and privileged_width(plan) > 0


def build_student(plan: Plan, config: Config, tnet: TNet | None) -> Student:
    """The student that ``config`` describes, with fresh weights around the given T-Net."""
    return Student(
        config.student,
        plan.shapes(plan.prevalent),
        plan.task,
        fusion=config.student.fusion or config.teachers.fusion,
        embedding=config.teachers.embedding,
        tnet=tnet,
    )


def initial_student(plan: Plan, config: Config, tnet: TNet | None, seed: int) -> Student:
    """The student as its training finds it, before the first step, around the given T-Net; seeds torch's generator."""
    torch.manual_seed(derive_seed(seed, _STUDENT_STREAM))
    return build_student(plan, config, tnet)


def initial_tnet(plan: Plan, config: Config, seed: int) -> TNet:
    """The T-Net as its training finds it, before the first step; seeds torch's generator."""
    torch.manual_seed(derive_seed(seed, _TNET_STREAM))
    return build_tnet(config.student, plan.shapes(plan.prevalent), plan.task, privileged_width(plan))


def fresh_student(plan: Plan, config: Config) -> Student:
    """The same network with a fresh T-Net, to load a trained student's weights into; what is frozen is there already.

    Raises:
        CheckpointError: the file of a frozen backbone's weights is missing, damaged or another one.
    """
    tnet = None
    with no_pretrained_weights(but_frozen=True):
        if uses_tnet(plan, config):
            tnet = build_tnet(config.student, plan.shapes(plan.prevalent), plan.task, privileged_width(plan))
        return build_student(plan, config, tnet)


def student_identity(plan: Plan, config: Config, seed: int) -> str:
    """Fingerprint of a training: two with the same are the same training."""
    sections = {"task_loss", "teachers", "student", "method", "training"}
    said = identified(config.model_dump(mode="json", include=sections))
    return fingerprint({"format": FORMAT, "pool": plan.pool_fingerprint, "seed": seed, "config": said})


def student_step(plan: Plan, config: Config) -> Step:
    """The student's training step: pure, its hyperparameters tensors (`losses.objective.build_objective`)."""
    teachers = plan.teachers_of(config)
    objective = build_objective(config.method, plan.info.task, plan.task_loss)
    joint = uses_tnet(plan, config) and config.student.tnet.training == "joint"

    def step(forward: Forward, batch: Batch, hparams: Hparams) -> tuple[Tensor, dict[str, Tensor]]:
        output = forward(inputs_of(batch, plan.prevalent))
        target, rows = labelled_rows(plan.info, batch["target"])
        student = StudentRows(rows(output.embedding, 1), rows(output.prediction, 1), target)
        pool = None
        if teachers:
            dims = {"embedding": 1, "prediction": 1, "loss": 0, "gamma": 0}
            pool = TeacherRows(
                *(
                    torch.stack([rows(batch[f"{name}.{field}"], dims[field]) for name in teachers])
                    for field in TEACHER_FIELDS
                )
            )
        loss, parts = objective(student, pool, hparams)
        parts = {_named(part, teachers): value for part, value in parts.items()}
        if joint:
            # What the teacher's features are needs no label, so every frame teaches the T-Net.
            regression = mse_loss(output.hallucinated, batch["privileged"])
            loss = loss + config.student.tnet.weight * regression
            parts |= {"tnet": regression, "weight/tnet": torch.full_like(regression, config.student.tnet.weight)}
        return loss, parts

    return step


def _named(part: str, teachers: list[str]) -> str:
    """``teacher/<position>`` of the objective to ``teacher/<name>``."""
    kind, _, index = part.partition("/")
    return f"teacher/{teachers[int(index)]}" if kind == "teacher" else part


def predict_rows(
    model: nn.Module, rows: Rows, modalities: list[str], batch_size: int = 4096, workers: Workers | None = None
) -> Tensor:
    """Predictions of every row, [N, C] or [N, T, C], in evaluation mode."""
    model.eval()
    prediction: Tensor = forward_all(model, rows, modalities, batch_size, workers).prediction
    return prediction


def scores(model: nn.Module, rows: Rows, plan: Plan, workers: Workers | None = None) -> dict[str, float]:
    """Every metric of the task for a student on some rows; several workers share the work and get the same metrics."""
    prediction = predict_rows(model, rows, plan.prevalent, workers=workers)
    target, labelled = labelled_rows(plan.info, rows.column("target"))
    return evaluate(labelled(prediction, 1), target, plan.info.task)


def privileged_width(plan: Plan) -> int:
    """How many features the first teacher has that the student lacks: the T-Net's outputs."""
    teachers = plan.config.teachers
    return sum(
        teachers.encoders.get(name, teachers.encoder).hidden[-1]
        for name in plan.pool[plan.first_teacher].modalities
        if name not in plan.prevalent
    )


def _tnet(
    plan: Plan,
    config: Config,
    arrays: Mapping[str, Arrays],
    seed: int,
    tnets: Path | None,
    device: str,
    workers: Workers,
) -> TNet:
    tnet = initial_tnet(plan, config, seed).to(device)
    if config.student.tnet.training == "joint":
        return tnet
    identity = tnet_identity(plan, config, seed)
    path = tnets / f"{identity}.safetensors" if tnets else None
    # The first worker's to read, since another trial may write it at any moment: all of them train it, or none does.
    tensors = workers.agree(_cached(path) if path and workers.rank == 0 else None)
    if path and tensors is not None:
        load_trained(tnet, tensors, path)
        return tnet
    fitted = fit_tnet(plan, config, tnet, arrays, seed=seed, device=device, workers=workers)
    if path and workers.rank == 0:
        # Trials that start together may each train it; the seed makes their results the same, so the last write wins.
        save_tensors(path, trained_state(fitted.model), {"identity": identity, "best": fitted.best})
        mirrors.push_file(path)
    return tnet


def _cached(path: Path) -> dict[str, Tensor] | None:
    """A T-Net's weights that are there already; a damaged entry is worth no interruption, and is trained again."""
    if not mirrors.have(path):
        return None
    try:
        return load_tensors(path)[0]
    except CheckpointError:
        path.unlink(missing_ok=True)
        return None


def tnet_identity(plan: Plan, config: Config, seed: int) -> str:
    """Fingerprint of a frozen T-Net's training."""
    student = identified(config.student.model_dump(mode="json", include={"encoder", "encoders", "tnet"}))
    return fingerprint({"format": FORMAT, "pool": plan.pool_fingerprint, "seed": seed, "student": student})


def fit_tnet(
    plan: Plan,
    config: Config,
    tnet: TNet,
    arrays: Mapping[str, Arrays],
    *,
    seed: int,
    device: str = "cpu",
    workers: Workers | None = None,
) -> Fitted:
    """Regress the T-Net to the first teacher's privileged features (mean squared error, best epoch by validation)."""
    rows = {
        split: student_rows(arrays[split], plan.prevalent, [], privileged=True, device=device)
        for split in ("train", "val")
    }

    def step(forward: Forward, batch: Batch, _hparams: Hparams) -> tuple[Tensor, dict[str, Tensor]]:
        return mse_loss(forward(inputs_of(batch, plan.prevalent)), batch["privileged"]), {}

    def validate(model: nn.Module) -> dict[str, float]:
        hallucinated = forward_all(model, rows["val"], plan.prevalent, workers=workers)
        return {"mse": float(mse_loss(hallucinated, rows["val"].column("privileged")))}

    return fit(
        tnet,
        step,
        rows["train"],
        config=config.student.tnet.fit,
        metric=TNET_METRIC,
        validate=validate,
        seed=seed,
        workers=workers,
        readers=plan.resources.readers,
    )
