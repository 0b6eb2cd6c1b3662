"""Answers as a table: one row a sample, or a frame."""

from __future__ import annotations

import numpy as np
import pytest

from pkdray.training.answers import answers_table


def test_classification_names_the_likeliest_class():
    values = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], dtype=np.float32)
    table = answers_table(["b", "a"], values, "classification", ["calm", "joy", "fear"], ["target"])
    assert table.columns.tolist() == ["sample_id", "prediction", "p_calm", "p_joy", "p_fear"]
    assert table["sample_id"].tolist() == ["b", "a"]
    assert table["prediction"].tolist() == ["joy", "calm"]
    np.testing.assert_array_equal(table[["p_calm", "p_joy", "p_fear"]].to_numpy(), values)
    assert table["p_joy"].dtype == np.float32


def test_regression_has_a_column_a_target():
    values = np.array([[0.1, -0.2], [0.3, 0.4], [0.5, 0.6]], dtype=np.float32)
    table = answers_table(["a", "b", "c"], values, "regression", [], ["valence", "arousal"])
    assert table.columns.tolist() == ["sample_id", "valence", "arousal"]
    np.testing.assert_array_equal(table[["valence", "arousal"]].to_numpy(), values)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_answers_per_frame_are_one_row_a_frame(task: str):
    values = np.arange(3 * 5 * 2, dtype=np.float32).reshape(3, 5, 2)
    names = ["x", "y"]
    table = answers_table(["c", "a", "b"], values, task, names, names)
    assert table["sample_id"].tolist() == ["c"] * 5 + ["a"] * 5 + ["b"] * 5
    assert table["frame"].tolist() == list(range(5)) * 3
    columns = ["p_x", "p_y"] if task == "classification" else names
    row = table[(table["sample_id"] == "a") & (table["frame"] == 3)]
    np.testing.assert_array_equal(row[columns].to_numpy()[0], values[1, 3])
