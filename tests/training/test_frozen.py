"""Frozen backbones: steps on disk give what the pictures give, and files hold only what was trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from pkdray.config import apply_overrides, build_config
from pkdray.data.mapped import MappedArray
from pkdray.embeddings import TeacherEmbeddings
from pkdray.errors import CheckpointError, ConfigError
from pkdray.files import checksum
from pkdray.models.visual import Backbone
from pkdray.search.results import load_student
from pkdray.search.trial import BEST, run_trial
from pkdray.training import frozen
from pkdray.training.bundles import MODEL, Architecture, StudentInfo, write_bundle
from pkdray.training.embed import embed_pool
from pkdray.training.frozen import missing_steps, steps_path, with_steps
from pkdray.training.inputs import split_arrays, student_rows, with_embeddings
from pkdray.training.loop import LAST
from pkdray.training.plan import make_plan
from pkdray.training.pools import Pool
from pkdray.training.pretrained import without_folders
from pkdray.training.students import fresh_student, predict_rows, student_identity, tnet_identity, train_student
from pkdray.training.teachers import load_teacher, train_teacher
from pkdray.training.workers import freeze

SHAPE = (2, 20, 17, 3)
QUICK = {"epochs": 2, "batch_size": 29, "checkpoint_every": 1, "learning_rate": 0.003}


def network(seed: int) -> dict[str, torch.Tensor]:
    """A ResNet-18 of torchvision whose BatchNorms have seen pictures: without that every answer is 0."""
    torch.manual_seed(seed)
    built = torchvision.models.resnet18()
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        built(torch.randn(16, 3, *SHAPE[1:3]))
    return built.state_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(network(3), path)
    return path


@pytest.fixture
def filmed(film_of):
    return film_of(SHAPE)


@pytest.fixture
def study(filmed, weights):
    """Resolves a study whose teachers and students see the film through one frozen network."""

    def make(**overrides):
        encoder = {"kind": "resnet18", "dropout": 0.1, "weights": str(weights), "freeze": True}
        config = {
            "name": "film",
            "dataset": {"path": str(filmed.path), "prevalent": ["film"], "privileged": ["voice"]},
            "teachers": {"encoders": {"film": {**encoder}}, "adapters": {"enabled": False}, "training": QUICK},
            "student": {"encoders": {"film": {**encoder}}, "tnet": {"hidden": [8], "fit": QUICK}},
            "method": {"name": "pkdot", "top_k": 5},
            "training": QUICK,
        }
        return make_plan(build_config(apply_overrides(config, overrides)), filmed)

    return make


@pytest.fixture
def made_up(filmed):
    """The arrays of a trial with teachers who say anything: what they say makes no difference here."""

    def make(plan):
        rng = np.random.default_rng(1)
        arrays = split_arrays(plan, filmed, plan.prevalent)
        said = {}
        for split, named in arrays.items():
            rows = len(named["target"])
            prediction = rng.normal(size=(rows, 4)).astype(np.float32)
            said[split] = {"joint": says(rng.normal(size=(rows, 64)), prediction, rng.normal(size=(rows, 64)))}
        return with_embeddings(arrays, said, "joint")

    return make


def says(embedding, prediction, privileged):
    flat = np.zeros(len(embedding), np.float32)
    return TeacherEmbeddings(embedding.astype("f4"), prediction, flat, flat, privileged.astype("f4"))


def curves(fitted) -> list[list[float]]:
    return [[value for _, value in sorted(epoch.items())] for epoch in fitted.history]


def holds_the_backbone(path: Path) -> bool:
    return any("backbone.network." in name for name in load_file(path))


@pytest.mark.parametrize("tnet", ["frozen", "joint"])
def test_a_student_of_cached_steps_is_the_student_of_the_pictures(study, made_up, tmp_path, tnet):
    plan = study(**{"student.tnet.training": tnet})
    arrays = made_up(plan)
    whole = train_student(plan, plan.config, arrays, seed=5)
    cached = train_student(plan, plan.config, arrays, seed=5, frozen=tmp_path / "frozen")
    # Batches of other shapes round otherwise on some processors, and Adam carries that on from step to step.
    np.testing.assert_allclose(curves(cached)[0], curves(whole)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(curves(cached), curves(whole), rtol=1e-4, atol=1e-4)
    val = arrays["val"]
    steps = with_steps(plan, plan.config.student, {"val": val}, tmp_path / "frozen")["val"]
    assert "input.film" not in steps
    # Were the network's answers all the same, the rest would say nothing.
    assert steps["steps.film"].gather().std(axis=0).mean() > 0.1
    said = {
        name: predict_rows(fitted.model, student_rows(named, ["film"], [], privileged=False), ["film"])
        for name, fitted, named in (
            ("pictures", whole, val),
            ("steps", cached, steps),
            ("trained on steps, asked with pictures", cached, val),
        )
    }
    for name, prediction in said.items():
        torch.testing.assert_close(prediction, said["pictures"], rtol=1e-4, atol=1e-4, msg=name)
    assert {name for name in whole.model.state_dict() if "backbone.network." in name}
    np.testing.assert_allclose(
        [value for value in whole.best.values() if value is not None], list(cached.best.values()), rtol=1e-4, atol=1e-4
    )


def test_the_network_runs_once_over_every_sample_and_never_again(study, made_up, filmed, tmp_path, monkeypatch):
    plan = study()
    arrays = made_up(plan)
    seen: list[int] = []
    forward = Backbone.forward
    monkeypatch.setattr(
        Backbone, "forward", lambda self, pictures: seen.append(len(pictures)) or forward(self, pictures)
    )
    assert missing_steps(plan, filmed, plan.config.student, ["film", "voice"], tmp_path) == ["film"]
    with_steps(plan, plan.config.teachers, arrays, tmp_path)
    assert sum(seen) == 131 * SHAPE[0]
    assert missing_steps(plan, filmed, plan.config.student, ["film", "voice"], tmp_path) == []
    train_student(plan, plan.config, arrays, seed=5, frozen=tmp_path)
    assert sum(seen) == 131 * SHAPE[0]


@pytest.mark.slow
def test_a_teacher_of_cached_steps_is_the_teacher_of_the_pictures(study, filmed, tmp_path):
    plan = study()
    joint = plan.pool["joint"]
    arrays = split_arrays(plan, filmed, joint.modalities)
    best, said = {}, {}
    for name in ("pictures", "steps"):
        pool = Pool.at(tmp_path / name / "pools", plan)
        folder = None if name == "pictures" else pool.frozen
        chosen = with_steps(plan, plan.config.teachers, arrays, folder)
        best[name] = train_teacher(plan, joint, chosen, pool.teacher("joint"))
        assert not holds_the_backbone(pool.teacher("joint") / "model.safetensors")
        embed_pool(plan, filmed, pool)
        pool.write(plan, {"joint": {"accuracy": 0.5}})
        said[name] = pool.load_embeddings(plan, filmed.samples["sample_id"].tolist())["joint"]
    assert best["steps"] == pytest.approx(best["pictures"], rel=1e-4, abs=1e-4)
    for field in ("embedding", "prediction", "loss", "privileged"):
        np.testing.assert_allclose(
            getattr(said["steps"], field), getattr(said["pictures"], field), rtol=1e-4, atol=1e-4, err_msg=field
        )
    # Put together again it is whole: a teacher of the pictures, and with the weights of the file.
    teacher = load_teacher(plan, joint, pool.teacher("joint"))
    film, voice = arrays["train"]["input.film"].gather(slice(0, 9)), arrays["train"]["input.voice"][:9]
    with torch.no_grad():
        output = teacher({"film": torch.from_numpy(film), "voice": torch.from_numpy(voice)})
    embedding = said["steps"].embedding[filmed.rows("train")[:9]]
    np.testing.assert_allclose(output.embedding.numpy(), embedding, rtol=1e-4, atol=1e-5)


def test_no_file_of_a_trial_holds_the_frozen_network_and_the_student_is_whole_again(study, made_up, tmp_path, weights):
    plan = study()
    arrays = made_up(plan)
    places = {"tnets": tmp_path / "tnets", "frozen": tmp_path / "frozen"}

    def interrupt(entry):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(plan, {}, arrays, tmp_path / "0", report=interrupt, **places)
    assert not holds_the_backbone(tmp_path / "0" / LAST)
    run_trial(plan, {}, arrays, tmp_path / "0", **places)
    assert len(list((tmp_path / "frozen").iterdir())) == 1
    (tnet,) = (tmp_path / "tnets").iterdir()
    assert not holds_the_backbone(tnet)
    assert not holds_the_backbone(tmp_path / "0" / BEST)

    run = SimpleNamespace(trial=lambda number: tmp_path / str(number), name="films")
    student, _ = load_student(run, plan, plan.config, 0)
    expected = train_student(plan, plan.config, arrays, seed=plan.config.seed).model.state_dict()
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4, msg=name)
    assert torch.equal(
        student.encoders["film"].backbone.network.conv1.weight.detach(), load_file(weights)["conv1.weight"]
    )
    info = StudentInfo(
        task="classification",
        targets=["target"],
        classes=list(plan.info.classes),
        architecture=Architecture(
            student=without_folders(plan.config.student),
            fusion="concat",
            embedding=64,
            shapes={"film": list(SHAPE)},
            outputs=4,
            per_frame=False,
            tnet_outputs=64,
        ),
        made_from={},
    )
    write_bundle(tmp_path / "best", student, info, {}, {})
    assert load_file(tmp_path / "best" / MODEL).keys() == student.state_dict().keys()
    said = (tmp_path / "best" / "config.yaml").read_text(encoding="utf-8")
    assert checksum(weights) in said
    assert "weights: resnet18.safetensors\n" in said
    assert str(weights.parent) not in said


@pytest.mark.parametrize("fate", ["gone", "another"])
def test_a_student_is_not_put_together_with_other_weights(study, made_up, tmp_path, weights, fate):
    file = tmp_path / "mine.safetensors"
    file.write_bytes(weights.read_bytes())
    plan = study(**{"student.encoders.film.weights": str(file), "student.tnet.training": "none"})
    run_trial(plan, {}, made_up(plan), tmp_path / "0", frozen=tmp_path / "frozen")
    file.unlink()
    if fate == "another":
        save_file(network(4), file)
    run = SimpleNamespace(trial=lambda number: tmp_path / str(number), name="films")
    with pytest.raises(CheckpointError, match=r"mine\.safetensors"):
        load_student(run, plan, plan.config, 0)


def identities(plan) -> list[str]:
    config = plan.config
    path = steps_path(plan, "film", config.student.encoders["film"], Path())
    return [plan.pool_fingerprint, student_identity(plan, config, 5), tnet_identity(plan, config, 5), path.name]


def test_weights_are_told_by_their_content_and_not_by_their_place(study, tmp_path, weights, monkeypatch):
    plan = study()
    moved, other = tmp_path / "elsewhere" / "net.safetensors", tmp_path / "other.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(weights.read_bytes())
    save_file(network(4), other)

    def named(path):
        return study(**{f"{whose}.encoders.film.weights": str(path) for whose in ("teachers", "student")})

    assert identities(named(moved)) == identities(plan)
    assert all(one != two for one, two in zip(identities(named(other)), identities(plan), strict=True))
    encoder = plan.config.student.encoders["film"]
    assert (encoder.weights, encoder.weights_checksum) == (str(weights), checksum(weights))
    # Workers may run in another folder than the one in which the path was typed.
    monkeypatch.chdir(moved.parent)
    assert named("net.safetensors").config.student.encoders["film"].weights == str(moved)
    # The same weights under another declaration: a resolved config is resolved already.
    again = make_plan(
        plan.config, SimpleNamespace(info=plan.info, folds=5, path=tmp_path, fingerprint=plan.dataset_fingerprint)
    )
    assert identities(again) == identities(plan)


def test_what_another_encoder_makes_of_the_film_lies_elsewhere(study, filmed):
    plan = study()
    encoder = plan.config.student.encoders["film"]
    paths = {
        kind: steps_path(plan, "film", encoder.model_copy(update={"kind": kind}), Path())
        for kind in ("resnet18", "r3d18", "r3d18_lstm")
    }
    # One network under two heads has one file.
    assert paths["r3d18"] == paths["r3d18_lstm"] != paths["resnet18"]
    assert steps_path(plan, "clip", encoder, Path()) != paths["resnet18"]


def test_files_of_weights_are_checked_with_the_rest_of_the_config(study, tmp_path, weights):
    with pytest.raises(ConfigError) as caught:
        study(
            **{
                "teachers.encoders.film.weights": str(tmp_path / "vgg.pth"),
                "student.encoders.film.weights_checksum": "sha256:" + "0" * 64,
                "search.space": {"student.encoders.film.weights": {"choice": [str(weights), str(tmp_path / "b.pth")]}},
                "search.metric": "ccc",
            }
        )
    faults = caught.value.details
    assert len(faults) == 4
    assert any(
        fault.startswith("teachers.encoders.film.weights") and "vgg.pth" in fault and "downloads nothing" in fault
        and "torchvision's resnet18" in fault and "null" in fault
        for fault in faults
    )  # fmt: skip
    assert any(
        fault.startswith("student.encoders.film.weights_checksum") and checksum(weights) in fault for fault in faults
    )
    assert any(fault.startswith("search.space.student.encoders.film.weights") and "b.pth" in fault for fault in faults)


def test_a_search_may_choose_among_weights(study, tmp_path, weights, monkeypatch):
    save_file(network(4), tmp_path / "other.safetensors")
    monkeypatch.chdir(tmp_path)
    path = "student.encoders.film.weights"
    plan = study(**{"search.space": {path: {"choice": [str(weights), "other.safetensors"]}}})
    monkeypatch.chdir("/")
    chosen = plan.trial_config({path: "other.safetensors"})
    encoder = chosen.student.encoders["film"]
    assert encoder.weights == str(tmp_path / "other.safetensors")
    assert encoder.weights_checksum == checksum(tmp_path / "other.safetensors")
    assert student_identity(plan, chosen, 5) != student_identity(plan, plan.config, 5)
    assert student_identity(plan, plan.trial_config({path: str(weights)}), 5) == student_identity(plan, plan.config, 5)
    bare = plan.trial_config({path: None, "student.encoders.film.freeze": False}).student.encoders["film"]
    assert (bare.weights, bare.weights_checksum) == (None, None)
    # What is missing is computed by the first trial that needs it.
    images = {"val": {"input.film": MappedArray.open(Path(plan.dataset_path) / plan.info.file_name("film"))}}
    found = [with_steps(plan, config.student, images, tmp_path / "frozen") for config in (plan.config, chosen)]
    first, second = (named["val"]["steps.film"].gather() for named in found)
    assert first.shape == second.shape == (131, 2, 512)
    assert not np.allclose(first, second)


def test_features_and_networks_that_train_are_left_alone(study, filmed, tmp_path):
    plan = study(**{"student.encoders.film.freeze": False})
    arrays = split_arrays(plan, filmed, ["film", "voice"])
    kept = with_steps(plan, plan.config.student, arrays, tmp_path)
    assert {split: list(named) for split, named in kept.items()} == {
        split: ["input.film", "input.voice", "target"] for split in ("train", "val")
    }
    # A frozen network on a standardised spectrogram depends on the fold: nothing of it is kept.
    spectrogram = plan.config.student.model_copy(update={"encoder": study().config.student.encoders["film"]})
    assert "input.voice" in with_steps(plan, spectrogram, arrays, tmp_path)["train"]
    assert with_steps(plan, study().config.student, arrays, None) == arrays
    assert list(tmp_path.glob("*.npy")) == []


@pytest.mark.parametrize("damage", ["truncated", "empty", "shape", "type"])
def test_damaged_steps_are_computed_again(study, made_up, tmp_path, damage):
    plan = study()
    arrays = made_up(plan)
    whole = with_steps(plan, plan.config.student, arrays, tmp_path / "frozen")["train"]["steps.film"].gather()
    (path,) = (tmp_path / "frozen").iterdir()
    kept = path.read_bytes()
    if damage in ("truncated", "empty"):
        path.write_bytes(kept[:-1000] if damage == "truncated" else b"")
    else:
        np.save(path, np.load(path)[:-1] if damage == "shape" else np.load(path).astype(np.float64))
    again = with_steps(plan, plan.config.student, arrays, tmp_path / "frozen")["train"]["steps.film"]
    np.testing.assert_array_equal(again.gather(), whole)
    assert path.read_bytes() == kept


def test_steps_that_were_interrupted_leave_nothing(study, made_up, tmp_path, monkeypatch):
    plan = study()
    arrays = made_up(plan)
    computed = frozen._computed

    def killed(*arguments):
        yield next(computed(*arguments))[:50]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(frozen, "_computed", killed)
        with pytest.raises(KeyboardInterrupt):
            with_steps(plan, plan.config.student, arrays, tmp_path / "frozen")
    assert list((tmp_path / "frozen").iterdir()) == []
    assert with_steps(plan, plan.config.student, arrays, tmp_path / "frozen")["val"]["steps.film"].shape[1:] == (2, 512)


@pytest.mark.ray
def test_a_task_computes_what_is_missing_and_tells_what_is_wrong(study, filmed, tmp_path, weights, local_ray):
    file, folder = tmp_path / "mine.safetensors", tmp_path / "frozen"
    file.write_bytes(weights.read_bytes())
    plan = study(**{"student.encoders.film.weights": str(file)})
    student = plan.config.student
    save_file(network(4), file)
    with pytest.raises(CheckpointError, match=r"mine\.safetensors has the checksum"):
        freeze(plan, filmed, student, ["film"], folder, cpus=1, gpus=0)
    file.write_bytes(weights.read_bytes())
    freeze(plan, filmed, student, ["film", "voice"], folder, cpus=1, gpus=0)
    assert missing_steps(plan, filmed, student, ["film"], folder) == []
    (path,) = folder.iterdir()
    here = with_steps(plan, student, split_arrays(plan, filmed, ["film"]), tmp_path / "here")["val"]["steps.film"]
    np.testing.assert_array_equal(np.load(path)[filmed.rows("val")], here.gather())


def test_a_fresh_student_has_its_frozen_network(study, weights):
    student = fresh_student(plan := study(), plan.config)
    stored = load_file(weights)
    for encoder in (student.encoders["film"], student.tnet.encoders["film"]):
        for name, value in encoder.backbone.network.state_dict().items():
            assert torch.equal(value, stored[name]), name
