"""Workers, micro-batches and precisions: the losses of a worker alone that takes the whole batch at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import team
import torch
from torch import nn

from pkdray.training.parallel import MicroBatches, Workers

SIZE = 3
ADAM = {"optimizer": "adam", "learning_rate": 0.03}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What three workers, each a process, say of every training of `team`."""
    folder = tmp_path_factory.mktemp("team")
    out = folder / "out.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, team.__file__, str(rank), str(SIZE), str(folder / "meet"), str(out)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(SIZE)
    ]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", team.CASES)
def test_three_workers_have_the_losses_of_one(together, case):
    # Batches of 9 and one of 2: three, and not even one, row a worker.
    alone = team.train(case)
    for said in together:
        assert len(said[case]["history"]) == 3
        for epoch, expected in zip(said[case]["history"], alone.history, strict=True):
            assert epoch == pytest.approx(expected, rel=1e-5, abs=1e-6)
        for name, value in alone.model.state_dict().items():
            np.testing.assert_allclose(said[case]["weights"][name], value.numpy(), rtol=1e-4, atol=1e-4)
    first, *others = together
    assert all(said[case] == first[case] for said in others)


def test_the_first_worker_decides(together):
    assert [said["agreed"] for said in together] == ["rank 0"] * SIZE


@pytest.mark.parametrize(("rows", "size"), [(9, 3), (9, 2), (2, 3), (7, 4), (5, 1)])
def test_shares_cover_the_batch_in_its_order_and_are_of_one_length(rows, size):
    indices = torch.randperm(31, generator=torch.Generator().manual_seed(1))[:rows]
    shares = [Workers(rank, size).share(indices) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    interleaved = torch.stack(shares, dim=1).flatten()
    assert torch.equal(interleaved[:rows], indices)
    assert set(interleaved.tolist()) == set(indices.tolist())


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8, 9, 50])
def test_micro_batches_have_the_losses_of_whole_ones(micro_batch):
    whole = team.train("structure")
    parts = team.train("structure", config={"micro_batch": micro_batch})
    for epoch, expected in zip(parts.history, whole.history, strict=True):
        assert epoch == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_micro_batch_is_all_that_goes_through_at_once():
    sizes: list[int] = []

    class Counting(team.TwoHeads):
        def forward(self, inputs):
            sizes.append(len(inputs["x"]))
            return super().forward(inputs)

    team.train("concordance", network=Counting, config={"micro_batch": 4, "epochs": 1, "batch_size": 19})
    # 38 rows, twice 19 = 4 + 4 + 4 + 4 + 3, and each part once more for its gradients; then the validation.
    assert sorted(sizes) == sorted([4, 4, 4, 4, 3] * 2 * 2 + [38])
    assert sizes[:5] == [4, 4, 4, 4, 3]


def test_micro_batches_replay_dropout_and_count_statistics_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))

    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs):
            return self.model(inputs["x"])

    values = torch.randn(7, 3)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def gradients(run) -> tuple[torch.Tensor, list[torch.Tensor], dict[str, torch.Tensor]]:
        model.load_state_dict(state)
        model.zero_grad()
        torch.manual_seed(11)
        said = run()
        said.square().sum().backward()
        return said.detach(), [value.grad.clone() for value in model.parameters()], dict(model.state_dict())

    def by_hand():
        return torch.cat([model(values[:3]), model(values[3:])])

    expected = gradients(by_hand)
    statistics = {name: value.clone() for name, value in expected[2].items()}
    # Parts of 3 and 3, and one that is left over alone: it joins the part before, since BatchNorm needs two.
    found = gradients(lambda: MicroBatches(Keyed(), 3)({"x": values}))
    torch.testing.assert_close(found[0], expected[0])
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other)
    assert int(found[2]["1.num_batches_tracked"]) == 2
    for name, value in statistics.items():
        torch.testing.assert_close(found[2][name], value)


@pytest.mark.parametrize(("precision", "near"), [("bfloat16", 0.02), ("float16", 0.003)])
def test_low_precision_is_near_and_losses_are_in_full(precision, near):
    seen = []

    class Watching(team.TwoHeads):
        def forward(self, inputs):
            said = super().forward(inputs)
            if self.training:
                seen.append(said[0].dtype)
            return said

    # One batch: its loss is that of the weights that all start with.
    full, low = (
        team.train("concordance", network=Watching, config={"precision": one, "epochs": 1, "batch_size": 38})
        for one in ("float32", precision)
    )
    assert seen == [torch.float32, getattr(torch, precision)]
    assert all(value.dtype == torch.float32 for value in low.model.parameters())
    said, expected = low.history[0]["train/loss"], full.history[0]["train/loss"]
    assert said == pytest.approx(expected, abs=near)
    assert said != expected
    learnt = team.train("concordance", config={"precision": precision, "epochs": 12, **ADAM}).history
    assert learnt[-1]["train/loss"] < 0.5 * learnt[0]["train/loss"]


def test_a_float16_training_is_continued_with_its_scale(tmp_path: Path):
    config = {"precision": "float16", "epochs": 4, "checkpoint_every": 2}
    whole = team.train("concordance", config=config)

    def stop(entry: dict[str, float]) -> None:
        if entry["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        team.train("concordance", config=config, folder=tmp_path, report=stop)
    assert team.train("concordance", config=config, folder=tmp_path).history == whole.history


@pytest.mark.parametrize("readers", [0, 2])
def test_what_is_read_ahead_from_disk_is_what_lies_in_memory(tmp_path: Path, readers):
    memory = team.train("structure")
    disk = team.train("structure", rows=team.rows(tmp_path), readers=readers)
    assert disk.history == memory.history
