"""The embeddings of validation rows: the teacher's, and the student's before and after its training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pkdray.config import Config
from pkdray.data.dataset import Dataset
from pkdray.diagnostics.trials import complete_trial
from pkdray.embeddings import Rows
from pkdray.models.networks import Student
from pkdray.search.results import load_student
from pkdray.search.run import Run
from pkdray.training.frozen import with_steps
from pkdray.training.inputs import forward_all, labelled_rows, present, split_arrays
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool
from pkdray.training.students import initial_student, initial_tnet, uses_tnet


@dataclass(frozen=True)
class Spaces:
    """R validation rows: labelled samples, or frames where targets are per frame.

    Args:
        teacher_name: whose embeddings ``teacher`` are.
        teacher: [R, D], from the cache.
        before: the student's as its training found it, [R, D].
        after: the trained student's, [R, D].
        targets: class names or the first target's numbers, [R].
        order: their place in a list sorted by target: the class's index, or the number, [R].
        samples: the position of each row's sample in ``dataset.samples``, [R].
        total: how many rows validation has, of which R were drawn.
    """

    teacher_name: str
    teacher: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    targets: np.ndarray
    order: np.ndarray
    samples: np.ndarray
    total: int


def spaces(run: Run, plan: Plan, dataset: Dataset, pool: Pool, number: int, samples: int, seed: int) -> Spaces:
    """Embed validation rows with a complete trial's teacher, and with its student before and after training.

    The teacher is the one that taught most; of a supervised trial, the study's first.

    Args:
        run: the run.
        plan: its plan.
        dataset: its dataset.
        pool: its teacher pool.
        number: of the trial.
        samples: at most so many rows, drawn by ``seed``.
        seed: of the draw.

    Raises:
        RunError: the trial did not run to its end, or has lost its weights.
        CheckpointError: embeddings are missing or damaged.
    """
    config, said = complete_trial(run, plan, number)
    name = _main_teacher(plan, config, said.get("teachers") or {})
    split = dataset.rows("val", plan.config.dataset.fold)
    frames = plan.info.target_frames or 1
    target, of = labelled_rows(plan.info, torch.as_tensor(dataset.targets()[split]))
    every = torch.arange(len(split) * frames)
    labelled = of(every.reshape(len(split), frames) if plan.info.target_frames else every, 0)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(labelled))[:samples])
    flat = labelled[torch.as_tensor(drawn)]
    chosen, row = (flat // frames).unique(return_inverse=True)
    # Only what was drawn goes through the networks: samples of images are large.
    place = row * frames + flat % frames
    positions = split[chosen.numpy()]
    arrays = with_steps(plan, config.student, split_arrays(plan, dataset, plan.prevalent, ["val"]), pool.frozen)["val"]
    inputs = Rows({modality: arrays[modality][chosen.numpy()] for modality in present(arrays, plan.prevalent)})
    trained, _ = load_student(run, plan, config, number)
    cached = pool.load_embeddings(plan, dataset.samples["sample_id"].iloc[positions].tolist())[name].embedding
    values = target[torch.as_tensor(drawn)].numpy()
    classes = plan.info.task == "classification"
    order = values if classes else values[:, 0]
    return Spaces(
        teacher_name=name,
        teacher=_rows(torch.as_tensor(cached), place),
        before=_rows(_embedded(untrained(plan, config, trained), inputs, plan), place),
        after=_rows(_embedded(trained, inputs, plan), place),
        targets=np.array(plan.info.classes, dtype=object)[order] if classes else order,
        order=order,
        samples=split[(flat // frames).numpy()],
        total=len(labelled),
    )


def untrained(plan: Plan, config: Config, trained: Student) -> Student:
    """The student as its training found it: the same first weights, and the same T-Net where that was frozen."""
    with torch.random.fork_rng():
        tnet = None
        if uses_tnet(plan, config):
            # A frozen T-Net was trained before the student began, and has not changed since.
            frozen = config.student.tnet.training == "frozen"
            tnet = trained.tnet if frozen else initial_tnet(plan, config, config.seed)
        return initial_student(plan, config, tnet, config.seed).eval()


def _main_teacher(plan: Plan, config: Config, shares: dict[str, float]) -> str:
    teachers = plan.teachers_of(config) or [plan.first_teacher]
    return max(teachers, key=lambda name: shares.get(name, 0.0))


def _embedded(student: Student, inputs: Rows, plan: Plan) -> torch.Tensor:
    embedding: torch.Tensor = forward_all(student.eval(), inputs, plan.prevalent).embedding
    return embedding


def _rows(embedding: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return embedding.reshape(-1, embedding.shape[-1]).float()[place]
