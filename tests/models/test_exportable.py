"""Fusions by attention as graphs (ONNX and torch.export) that take any batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pkdray.config import StudentConfig
from pkdray.data.normalisation import Standardizer
from pkdray.export.graphs import ONNX, TORCH, write_graphs
from pkdray.models.networks import Student, TaskShape
from pkdray.training.bundles import Pipeline

SHAPES = {"face": (6, 5), "skin": (3,), "voice": (6, 4)}


# The other two are exported by the tests of export; each of these takes seconds.
@pytest.mark.parametrize(("fusion", "per_frame"), [("jca", True), ("transformer", False), ("jmt", True)])
def test_a_student_with_attention_can_be_exported(fusion, per_frame, tmp_path):
    torch.manual_seed(0)
    config = StudentConfig.model_validate({"encoders": {"face": {"kind": "tcn"}, "voice": {"kind": "gru"}}})
    student = Student(config, SHAPES, TaskShape(4, per_frame), fusion=fusion, embedding=11, tnet=None)
    standardizers = {
        name: Standardizer(np.zeros(shape[-1], dtype=np.float32), np.ones(shape[-1], dtype=np.float32))
        for name, shape in SHAPES.items()
    }
    # It compares both graphs with the student at two batch sizes.
    write_graphs(tmp_path, Pipeline(student, standardizers, "regression").eval(), SHAPES)
    assert {path.name for path in tmp_path.iterdir()} == {ONNX, TORCH}
