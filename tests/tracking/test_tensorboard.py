"""TensorBoard's files, read back by TensorBoard."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def test_tensorboard_reads_every_curve_and_the_hyperparameters(tracked) -> None:
    folder = tracked({"tensorboard": True}) / "tensorboard"
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2", "3"]
    found = {}
    for number in range(4):
        events = EventAccumulator(str(folder / str(number)))
        events.Reload()
        found[number] = events
        assert "train/loss" in events.Tags()["scalars"]
    # Two sessions within one second leave two files that are read in either order.
    points = sorted((event.step, event.value) for event in found[3].Scalars("accuracy"))
    assert [step for step, _ in points] == [1, 2, 3, 4, 5], "the resume continues the curve and repeats nothing"
    assert [value for _, value in points] == pytest.approx([0.13, 0.23, 0.33, 0.43, 0.53])
    assert found[0].Scalars("final/value")[0].value == 0.5
    hparams = found[0].SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"training.learning_rate" in hparams
    assert "reason/text_summary" in found[2].Tags()["tensors"]
