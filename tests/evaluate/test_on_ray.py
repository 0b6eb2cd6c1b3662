"""Trainings of an evaluation, before there is a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pkdray.data.dataset import Dataset
from pkdray.evaluate.on_ray import Trainer
from pkdray.training.plan import Plan


def test_every_fold_takes_what_was_decided_for_the_cluster(
    small_dataset: Callable[..., Dataset], plan: Callable[..., Plan], tmp_path: Path
) -> None:
    dataset = small_dataset()
    given = plan(dataset, {"dataset.fold": 2})
    decided = replace(given, resources=replace(given.resources, cpus_per_trial=3.0, gpus_per_trial=0.25))
    trainer = Trainer(SimpleNamespace(path=tmp_path), decided, dataset, lambda _plan: pytest.fail("no pool is needed"))
    for fold in (0, 2, 4):
        assert trainer.plan(fold).config.dataset.fold == fold
        assert trainer.plan(fold).resources == decided.resources
