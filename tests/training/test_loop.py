"""The loop: continued as if never interrupted, the best epoch kept, the same step for one worker and for several."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pkdray.config import TrainingConfig
from pkdray.embeddings import Rows
from pkdray.errors import DivergedError, PkdrayError
from pkdray.models.encoder import Encoder
from pkdray.training.checkpoints import load_tensors, save_tensors
from pkdray.training.loop import LAST, Fitted, derive_seed, fit
from pkdray.training.metrics import Metric
from pkdray.training.parallel import Workers

ERROR = Metric("error", "regression", "min", lambda prediction, target: (prediction - target).square().mean())
SCORE = Metric("score", "regression", "max", ERROR.of)


def rows(count: int = 37) -> Rows:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(count, 5)).astype(np.float32)
    return Rows({"x": values, "y": values @ rng.normal(size=(5, 2)).astype(np.float32), "id": np.arange(count)})


def network() -> nn.Module:
    torch.manual_seed(9)
    return nn.Sequential(nn.Linear(5, 11), nn.ReLU(), nn.Dropout(0.3), nn.Linear(11, 2))


def step(forward, batch, hparams):
    error = (forward(batch["x"]) - batch["y"]).square().mean()
    return error, {"half": error / 2}


def train(model: nn.Module | None = None, **settings: Any) -> Fitted:
    given = rows()
    everything = given.take(torch.arange(37))
    config = {"epochs": 8, "batch_size": 9, "learning_rate": 0.01, "patience": 30, "checkpoint_every": 3}
    config |= settings.pop("config", {})
    arguments: dict[str, Any] = {
        "step": step,
        "rows": given,
        "config": TrainingConfig.model_validate(config),
        "metric": ERROR,
        "validate": lambda model: {"error": float((model(everything["x"]) - everything["y"]).square().mean())},
        "seed": 4,
        "identity": "this",
    } | settings
    return fit(model or network(), **arguments)


def assert_same(one: Fitted, other: Fitted) -> None:
    assert one.history == other.history
    assert one.best == other.best
    weights = other.model.state_dict()
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def stop_at(epoch: int):
    def report(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == epoch:
            raise KeyboardInterrupt

    return report


def test_it_learns_and_says_what_happened():
    reported: list[dict[str, float]] = []
    fitted = train(config={"epochs": 30}, report=reported.append)
    assert fitted.epochs == 30
    assert [entry["epoch"] for entry in fitted.history] == list(range(1, 31))
    assert fitted.history[-1]["train/loss"] < fitted.history[0]["train/loss"] / 2
    assert fitted.history[-1]["train/half"] == pytest.approx(fitted.history[-1]["train/loss"] / 2)
    assert [entry["best"] for entry in fitted.history] == list(
        np.minimum.accumulate([entry["error"] for entry in fitted.history])
    )
    assert [entry["finished"] for entry in reported] == [0.0] * 29 + [1.0]
    assert [{k: v for k, v in entry.items() if k != "finished"} for entry in reported] == fitted.history
    assert not fitted.model.training


@pytest.mark.parametrize("stop", [2, 5, 7])
@pytest.mark.parametrize(
    "config",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "gradient_clip": 0.5},
    ],
    ids=lambda config: config["optimizer"],
)
def test_interrupted_and_continued_is_the_same_as_uninterrupted(tmp_path: Path, config, stop):
    whole = train(config=config)
    with pytest.raises(KeyboardInterrupt):
        train(config=config, folder=tmp_path, report=stop_at(stop))
    reported: list[float] = []
    # The weights that the continuing process starts with must not matter.
    torch.manual_seed(1000)
    other = nn.Sequential(nn.Linear(5, 11), nn.ReLU(), nn.Dropout(0.3), nn.Linear(11, 2))
    model = network() if stop < 3 else other
    continued = train(model, config=config, folder=tmp_path, report=lambda entry: reported.append(entry["epoch"]))
    assert_same(continued, whole)
    assert reported == list(range(stop // 3 * 3 + 1, 9))


def learning(forward, batch, hparams):
    """A step whose loss has two terms, weighed by what is learned beside the network."""
    error, parts = step(forward, batch, hparams)
    size = forward(batch["x"]).square().mean()
    s = hparams["s"]
    return (-s[0]).exp() * error + (-s[1]).exp() * size + s.sum() + hparams["fixed"], {
        "half": parts["half"], "weight/error": (-s[0]).exp(), "weight/size": (-s[1]).exp()
    }  # fmt: skip


def to_learn() -> dict[str, torch.Tensor]:
    return {"s": torch.tensor([0.3, -0.2], requires_grad=True), "fixed": torch.tensor(0.5)}


def test_hyperparameters_that_require_a_gradient_are_learned_and_stay_out_of_the_model():
    given = to_learn()
    fitted = train(step=learning, hparams=given, config={"epochs": 5})
    weights = [entry["train/weight/error"] for entry in fitted.history]
    assert len(set(weights)) == 5
    # Where a weight is 1 / error, its gradient is 0.
    away = [abs(np.log(entry["train/weight/error"] * 2 * entry["train/half"])) for entry in fitted.history]
    assert away[-1] < 0.8 * away[0]
    assert fitted.model.state_dict().keys() == network().state_dict().keys()
    # The caller's are as they were, so a second training starts where the first did.
    assert given["s"].tolist() == pytest.approx([0.3, -0.2])
    assert given["s"].grad is None
    assert_same(train(step=learning, hparams=given, config={"epochs": 5}), fitted)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_hyperparameters_do_not_decay(optimizer):
    def idle(forward, batch, hparams):
        error, _ = step(forward, batch, hparams)
        return error + 0 * hparams["s"].sum(), {"s": hparams["s"].sum()}

    config = {"optimizer": optimizer, "weight_decay": 0.5, "epochs": 3}
    fitted = train(step=idle, hparams={"s": torch.full((2,), 2.0, requires_grad=True)}, config=config)
    assert [entry["train/s"] for entry in fitted.history] == [4.0] * 3


@pytest.mark.parametrize("stop", [2, 5, 7])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_learned_hyperparameters_are_continued_with_the_model(tmp_path: Path, optimizer, stop):
    config = {"optimizer": optimizer, "weight_decay": 0.1}
    whole = train(step=learning, hparams=to_learn(), config=config)
    with pytest.raises(KeyboardInterrupt):
        train(step=learning, hparams=to_learn(), config=config, folder=tmp_path, report=stop_at(stop))
    assert_same(train(step=learning, hparams=to_learn(), config=config, folder=tmp_path), whole)
    if stop > 3:
        assert "hparams.s" in load_tensors(tmp_path / LAST)[0]
        assert "hparams.fixed" not in load_tensors(tmp_path / LAST)[0]


def test_interrupted_twice_and_while_the_best_epoch_is_long_past(tmp_path: Path):
    def judge():
        # The best epoch is the second, before the checkpoint that is continued from.
        scores = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
        return lambda _model: {"error": next(scores)}

    config = {"patience": 30}
    whole = train(config=config, validate=judge())
    validate = judge()
    with pytest.raises(KeyboardInterrupt):
        train(config=config, validate=validate, folder=tmp_path, report=stop_at(4))
    second = judge()
    for _ in range(3):
        second(None)
    with pytest.raises(KeyboardInterrupt):
        train(config=config, validate=second, folder=tmp_path, report=stop_at(7))
    last = judge()
    for _ in range(6):
        last(None)
    continued = train(config=config, validate=last, folder=tmp_path)
    assert continued.best["epoch"] == 2
    assert_same(continued, whole)


def test_a_finished_training_is_not_trained_again(tmp_path: Path):
    first = train(folder=tmp_path)

    def never(*_):
        raise AssertionError("a step was taken")

    assert_same(train(folder=tmp_path, step=never, report=never), first)


@pytest.mark.parametrize(("metric", "sign"), [(ERROR, 1), (SCORE, -1)], ids=["min", "max"])
def test_it_stops_after_patience_and_keeps_the_best_epoch(metric, sign):
    values = iter([5.0, 3.0, 4.0, 3.0, 3.5, 1.0])
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {metric.name: sign * next(values)}

    fitted = train(config={"epochs": 20, "patience": 3}, metric=metric, validate=validate)
    assert fitted.epochs == 5
    # An equal value is no improvement: the earlier epoch stays.
    assert fitted.best["epoch"] == 2
    assert fitted.best[metric.name] == sign * 3.0
    for name, value in fitted.model.state_dict().items():
        assert torch.equal(value, seen[1][name])
        assert not torch.equal(value, seen[4][name])


def test_an_epoch_without_a_finite_metric_is_never_the_best():
    values = iter([float("nan"), 4.0, float("nan")])
    fitted = train(config={"epochs": 3}, validate=lambda _model: {"error": next(values)})
    assert fitted.best["epoch"] == 2
    with pytest.raises(DivergedError, match="No epoch gave a finite error on validation"):
        train(config={"epochs": 3}, validate=lambda _model: {"error": float("nan")})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_names_its_epoch(value):
    steps: list[int] = []

    def explode(forward, batch, hparams):
        steps.append(1)
        loss, parts = step(forward, batch, hparams)
        # 37 rows in batches of 9 leave one row over: four steps an epoch, so this is in the third.
        return loss * value if len(steps) == 10 else loss, parts

    with pytest.raises(DivergedError, match=r"became (nan|inf|-inf) in epoch 3\.") as caught:
        train(step=explode)
    assert "learning rate" in str(caught.value)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def no_checkpoint(path: Path) -> None:
    path.write_text("hello")


def of_another_program(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def of_another_kind(path: Path) -> None:
    save_tensors(path, {"weight": torch.zeros(3)}, {"format": 1})


@pytest.mark.parametrize("spoil", [damaged, emptied, no_checkpoint, of_another_program, of_another_kind])
def test_a_state_that_cannot_be_continued_is_replaced(tmp_path: Path, caplog, spoil):
    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path, report=stop_at(5))
    spoil(tmp_path / LAST)
    with caplog.at_level(logging.WARNING):
        anew = train(folder=tmp_path)
    assert LAST in caplog.text
    assert_same(anew, whole)
    assert_same(train(folder=tmp_path), whole)


def test_the_state_of_another_training_is_not_continued(tmp_path: Path, caplog):
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path, identity="that", seed=77, report=stop_at(5))
    with caplog.at_level(logging.WARNING):
        anew = train(folder=tmp_path)
    assert "belongs to another training (that, not this)" in caplog.text
    assert_same(anew, train())


def test_no_folder_means_no_files(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train()
    assert list(tmp_path.iterdir()) == []


def test_the_seed_decides_and_the_callers_random_state_does_not():
    one = train()
    torch.manual_seed(123)
    assert_same(train(), one)
    assert train(seed=5).history != one.history


def collecting(seen: list[list[int]]):
    def collect(forward, batch, hparams):
        seen.append(batch["id"].tolist())
        return step(forward, batch, hparams)

    return collect


@pytest.mark.parametrize(("count", "sizes"), [(37, [9, 9, 9, 9]), (38, [9, 9, 9, 9, 2]), (36, [9] * 4), (7, [7])])
def test_a_last_batch_of_one_row_is_left_out(count, sizes):
    seen: list[list[int]] = []
    train(step=collecting(seen), rows=rows(count), config={"epochs": 2})
    assert [len(batch) for batch in seen] == sizes * 2
    for epoch in (seen[: len(sizes)], seen[len(sizes) :]):
        taken = [index for batch in epoch for index in batch]
        assert len(set(taken)) == len(taken) == sum(sizes)
    assert seen[: len(sizes)] != seen[len(sizes) :]


@pytest.fixture
def alone_in_a_group(tmp_path: Path):
    """A process group of this process alone, for what needs one to be there."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone_in_a_group")
def test_only_the_first_worker_writes(tmp_path: Path):
    for rank, names in ((1, []), (0, [LAST])):
        folder = tmp_path / str(rank)
        folder.mkdir()
        train(folder=folder, workers=Workers(rank))
        assert [path.name for path in folder.iterdir()] == names


def test_an_encoder_has_its_own_learning_rate():
    class Quick(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 11)
            self.learning_rate = 0.5

        def forward(self, values):
            return self.layer(values)

    def model(rate: float | None) -> nn.Module:
        torch.manual_seed(9)
        encoder = Quick()
        encoder.learning_rate = rate
        return nn.Sequential(encoder, nn.ReLU(), nn.Linear(11, 2))

    config = {"optimizer": "sgd", "learning_rate": 0.01, "epochs": 1, "batch_size": 37}

    def moved(rate: float | None) -> dict[str, torch.Tensor]:
        start = {name: value.clone() for name, value in model(rate).state_dict().items()}
        fitted = train(model(rate), config=config)
        return {name: value - start[name] for name, value in fitted.model.state_dict().items()}

    plain, own = moved(None), moved(0.04)
    for name, step_taken in plain.items():
        # One step of SGD: proportional to its learning rate.
        torch.testing.assert_close(own[name], (4 if name.startswith("0.") else 1) * step_taken, rtol=1e-3, atol=1e-6)
    assert plain["0.layer.weight"].abs().max() > 1e-4


def test_the_step_gets_the_wrapped_model_and_the_result_is_the_bare_one():
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module
            self.calls = 0

        def forward(self, values):
            self.calls += 1
            return self.module(values)

    made: list[Wrapper] = []

    def wrap(module: nn.Module) -> nn.Module:
        made.append(Wrapper(module))
        return made[0]

    wrapped = train(workers=Workers(0, 1, wrap))
    assert made[0].calls == 8 * 4
    assert_same(wrapped, train())


def test_too_few_rows_for_a_single_batch_are_told():
    with pytest.raises(PkdrayError, match=r"1 training row in batches of 9 give no batch of two rows"):
        train(rows=rows(1))


def test_hyperparameters_reach_the_step_as_they_are():
    seen = []

    def scaled(forward, batch, hparams):
        seen.append(hparams["alpha"])
        loss, parts = step(forward, batch, hparams)
        return hparams["alpha"] * loss, parts

    alpha = torch.tensor(0.25)
    fitted = train(step=scaled, hparams={"alpha": alpha}, config={"epochs": 1})
    assert all(value is alpha for value in seen)
    assert fitted.history[0]["train/loss"] == pytest.approx(0.5 * fitted.history[0]["train/half"])


def test_parameters_that_need_no_gradient_stay():
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    fitted = train(model, config={"weight_decay": 0.5, "optimizer": "adamw"})
    assert torch.equal(fitted.model[0].weight, before)


def test_derived_seeds_are_stable_and_unrelated():
    assert derive_seed(3, 1) == derive_seed(3, 1)
    many = {derive_seed(seed, epoch) for seed in range(40) for epoch in range(40)}
    assert len(many) == 1600
    assert all(0 <= seed < 2**32 for seed in many)
