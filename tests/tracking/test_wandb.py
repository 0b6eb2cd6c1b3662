"""What W&B wrote offline, read from its own files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_SECONDS

pytest.importorskip("wandb")


_BLOCK, _HEADER = 32768, 7


def chunks(data: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, which W&B writes behind seven bytes of its own."""
    offset, parts = _HEADER, b""
    while offset + _HEADER <= len(data):
        left = _BLOCK - offset % _BLOCK
        if left < _HEADER:
            offset += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, offset)
        offset += _HEADER
        parts += data[offset : offset + size]
        offset += size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def records(file: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    found = []
    for chunk in chunks(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(chunk)
        found.append(record)
    return found


def test_every_trial_is_a_run_of_the_group_and_a_resume_goes_on_with_the_same_one(
    tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pkdray.tracking.wandb._INIT_SECONDS", float(PATIENCE_SECONDS))
    folder = tracked({"wandb": {"project": "digits", "mode": "offline"}})
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 5, "four trials, one of them in two sessions"
    runs: dict[str, dict[str, Any]] = {}
    for file in files:
        written = records(file)
        run = next(record.run for record in written if record.HasField("run"))
        about = runs.setdefault(run.display_name, {"ids": set(), "epochs": [], "summary": {}})
        assert (run.project, run.run_group) == ("digits", "demo")
        about["ids"].add(run.run_id)
        about["config"] = {item.key: json.loads(item.value_json) for item in run.config.update}
        for record in written:
            if record.HasField("history"):
                row = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.history.item}
                about["epochs"].append((row["epoch"], row["accuracy"]))
            if record.HasField("summary"):
                about["summary"] |= {
                    (i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.summary.update
                }
    assert sorted(runs) == ["demo-0", "demo-1", "demo-2", "demo-3"]
    assert {len(about["ids"]) for about in runs.values()} == {1}
    assert sorted(runs["demo-3"]["epochs"]) == [(1, 0.13), (2, 0.23), (3, 0.33), (4, 0.43), (5, 0.53)]
    assert runs["demo-0"]["config"]["training.learning_rate"] == 0.003
    assert runs["demo-1"]["summary"]["fate"] == "pruned"
    assert runs["demo-2"]["summary"]["reason"] == "The training loss became nan in epoch 2."
