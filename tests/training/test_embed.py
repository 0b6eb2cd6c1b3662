"""What the frozen teachers say of every sample, against a computation of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pkdray.embeddings import read_embeddings
from pkdray.training import embed
from pkdray.training.checkpoints import load_tensors
from pkdray.training.teachers import load_adapters, load_teacher

WORLDS = [
    ("classification", "vectors", "mlp"),
    ("classification", "sequences", "gru"),
    ("classification", "frames", "mlp"),
    ("regression", "vectors", "mlp"),
    ("regression", "sequences", "mlp"),
    ("regression", "frames", "gru"),
]
each_world = pytest.mark.parametrize(("task", "kind", "encoder"), WORLDS)


@pytest.fixture
def world(small_dataset, plan, taught):
    def make(task="classification", kind="vectors", encoder="mlp", **overrides):
        dataset = small_dataset(task, kind)
        study = plan(
            dataset, {"teachers.encoder.kind": encoder, "teachers.encoders": {"heart": {"hidden": [4]}}, **overrides}
        )
        return study, dataset, taught(study, dataset)

    return make


def standardised(dataset, name: str, fold: int | None = None) -> np.ndarray:
    values = dataset.features(name).astype(np.float64)
    train = values[dataset.rows("train", fold)].reshape(-1, values.shape[-1])
    return (values - train.mean(axis=0)) / train.std(axis=0)


def concordance(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def test_a_teacher_of_vectors_by_hand(world, monkeypatch):
    # Several chunks, the last of them short.
    monkeypatch.setattr(embed, "CHUNK", 37)
    _, dataset, pool = world()
    ids, said = read_embeddings(pool.embeddings("joint"))
    assert ids == dataset.samples["sample_id"].tolist()
    weights = {
        name: value.double().numpy()
        for name, value in load_tensors(pool.teacher("joint") / "model.safetensors")[0].items()
    }

    def layer(values: np.ndarray, name: str) -> np.ndarray:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    features = {
        name: np.maximum(layer(standardised(dataset, name), f"encoders.@{name}.layers.0"), 0)
        for name in ("face", "voice", "heart")
    }
    embedding = np.maximum(layer(np.concatenate(list(features.values()), axis=1), "fusion.layer"), 0)
    np.testing.assert_allclose(said.embedding, embedding, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(said.prediction, layer(embedding, "head"), rtol=1e-3, atol=1e-4)
    privileged = np.concatenate([features["voice"], features["heart"]], axis=1)
    assert said.privileged.shape == (131, 9 + 4)
    np.testing.assert_allclose(said.privileged, privileged, rtol=1e-3, atol=1e-4)


@each_world
def test_a_sample_alone_is_said_the_same_of(world, task, kind, encoder):
    plan, dataset, pool = world(task, kind, encoder)
    steps = (6,) if kind == "frames" else ()
    outputs = 4 if task == "classification" else 2
    teacher = load_teacher(plan, plan.pool["joint"], pool.teacher("joint"))
    adapters = load_adapters(plan, pool.adapters("joint"))
    files = {name: read_embeddings(pool.embeddings(name))[1] for name in plan.pool}
    for name, said in files.items():
        assert said.embedding.shape == (131, *steps, 11)
        assert said.prediction.shape == (131, *steps, outputs)
        assert said.loss.shape == said.gamma.shape == (131, *steps)
        assert said.privileged.shape == (131, *steps, 13 if name == "joint" else 0)
    inputs = {
        name: torch.from_numpy(standardised(dataset, name).astype(np.float32)) for name in dataset.info.modalities
    }
    for row in (0, 17, 130):
        output = teacher({name: values[row : row + 1] for name, values in inputs.items()})
        close = {"rtol": 1e-4, "atol": 1e-4}
        np.testing.assert_allclose(files["joint"].embedding[row], output.embedding[0].numpy(), **close)
        np.testing.assert_allclose(files["joint"].prediction[row], output.prediction[0].numpy(), **close)
        missing = torch.cat([output.features["voice"], output.features["heart"]], dim=-1)
        np.testing.assert_allclose(files["joint"].privileged[row], missing[0].numpy(), **close)
        for name, (embedding, prediction) in adapters(output.features).items():
            np.testing.assert_allclose(files[name].embedding[row], embedding[0].numpy(), **close)
            np.testing.assert_allclose(files[name].prediction[row], prediction[0].numpy(), **close)


@each_world
@pytest.mark.parametrize("fold", [None, 1])
def test_losses_and_gammas(world, task, kind, encoder, fold):
    plan, dataset, pool = world(task, kind, encoder, **{"dataset.fold": fold, "teachers.training.epochs": 2})
    targets, sequences = dataset.targets(), dataset.samples["sequence_id"].to_numpy()
    known = np.concatenate([dataset.rows("train", fold), dataset.rows("val", fold)])
    hidden = dataset.rows("test", fold)
    for name in plan.pool:
        _, said = read_embeddings(pool.embeddings(name))
        assert np.isnan(said.loss[hidden]).all()
        assert np.isnan(said.gamma[hidden]).all()
        assert np.isfinite(said.prediction).all()
        if task == "classification":
            logits = said.prediction.astype(np.float64)
            chances = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
            chance = np.take_along_axis(chances, targets[..., None], axis=-1)[..., 0]
            np.testing.assert_allclose(said.loss[known], -np.log(chance[known]), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(said.gamma[known], 1 - chance[known], rtol=1e-4, atol=1e-6)
            continue
        np.testing.assert_allclose(
            said.loss[known], np.square(said.prediction - targets).mean(axis=-1)[known], rtol=1e-4, atol=1e-6
        )
        for sequence in np.unique(sequences[known]):
            rows = np.flatnonzero(sequences == sequence)
            flat = (-1, 2)
            predicted, true = said.prediction[rows].reshape(flat), targets[rows].reshape(flat)
            rho = np.mean([concordance(predicted[:, index], true[:, index]) for index in range(2)])
            np.testing.assert_allclose(said.gamma[rows], 1 - rho if len(predicted) > 1 else 1, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_labels_of_the_test_split_stay_closed(world, monkeypatch, task):
    plan, dataset, pool = world(task)
    before = {name: pool.embeddings(name).read_bytes() for name in plan.pool}
    targets = dataset.targets()
    targets[dataset.rows("test")] = 99
    monkeypatch.setattr(type(dataset), "targets", lambda self: targets)
    embed.embed_pool(plan, dataset, pool)
    assert {name: pool.embeddings(name).read_bytes() for name in plan.pool} == before


def test_a_teacher_of_the_prevalent_modalities_has_nothing_privileged(world):
    plan, _, pool = world(**{"teachers.pool": [{"name": "joint"}, {"name": "plain", "modalities": ["face"]}]})
    assert list(plan.pool) == ["joint", "plain", "face", "voice", "heart"]
    assert read_embeddings(pool.embeddings("plain"))[1].privileged.shape == (131, 0)


def test_names_with_a_dot_or_of_a_method_of_torch(small_dataset, plan, taught):
    dataset = small_dataset(rename={"face": "face.left", "voice": "keys", "heart": "hallucinated"})
    study = plan(dataset, {"dataset.prevalent": ["face.left"], "method.teachers": ["keys"]})
    pool = taught(study, dataset)
    pool.verify(study)
    assert sorted(path.name for path in (pool.path / "embeddings").iterdir()) == [
        "face.left.parquet",
        "hallucinated.parquet",
        "joint.parquet",
        "keys.parquet",
    ]
