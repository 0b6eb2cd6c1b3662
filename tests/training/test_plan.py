"""A config met with its dataset: what is filled in, every fault, and what the pool's fingerprint hangs on."""

from __future__ import annotations

import pickle

import pytest

from pkdray.config import apply_overrides, build_config
from pkdray.data.dataset import DatasetInfo, write_dataset
from pkdray.data.info import Modality
from pkdray.errors import ConfigError
from pkdray.training.plan import Member, plan_without_data


def faults(plan, dataset, overrides) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan(dataset, overrides)
    assert f"small does not fit the dataset {dataset.info.name}:" in str(caught.value)
    assert "pkdray data inspect small" in str(caught.value)
    return list(caught.value.details)


def test_every_default_is_filled_in(small_dataset, plan):
    study = plan(small_dataset())
    assert study.prevalent == ["face"]
    assert study.privileged == ["voice", "heart"]
    assert study.config.teachers.pool[0].modalities == ["face", "voice", "heart"]
    assert study.config.student.fusion == "concat"
    assert study.config.search.metric == "accuracy"
    assert study.config.task_loss == study.task_loss == "cross_entropy"
    assert study.first_teacher == "joint"
    assert study.task == (4, False)
    assert study.shapes(["heart", "face"]) == {"heart": (3,), "face": (5,)}
    assert study.pool == {
        "joint": Member("joint", ("face", "voice", "heart")),
        "face": Member("face", ("face",), "joint"),
        "voice": Member("voice", ("voice",), "joint"),
        "heart": Member("heart", ("heart",), "joint"),
    }


def test_regression_per_frame(small_dataset, plan):
    study = plan(small_dataset("regression", "frames"), {"student.fusion": "gated"})
    assert study.task == (2, True)
    assert study.metric.name == "ccc"
    assert study.config.task_loss == "ccc"
    assert study.config.student.fusion == "gated"
    assert study.shapes(["voice"]) == {"voice": (6, 7)}


def test_modalities_that_nobody_names_are_left_out(small_dataset, plan):
    study = plan(small_dataset(), {"dataset.privileged": ["heart"]})
    assert list(study.pool) == ["joint", "face", "heart"]
    assert study.pool["joint"].modalities == ("face", "heart")


def test_a_pool_of_several(small_dataset, plan):
    pool = [{"name": "duo", "modalities": ["voice", "face"]}, {"name": "all"}]
    study = plan(small_dataset(), {"teachers.pool": pool, "dataset.prevalent": ["heart"]})
    assert study.first_teacher == "duo"
    assert {name: (member.modalities, member.adapter_of) for name, member in study.pool.items()} == {
        "duo": (("voice", "face"), None),
        "all": (("face", "voice", "heart"), None),
        "voice": (("voice",), "duo"),
        "face": (("face",), "duo"),
    }
    without = plan(small_dataset(), {"teachers.pool": pool, "teachers.adapters.enabled": False})
    assert list(without.pool) == ["duo", "all"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"method.name": "supervised"}, []),
        ({"method.name": "pkd"}, ["joint"]),
        ({"method.name": "pkd", "method.teachers": ["voice", "joint"]}, ["voice", "joint"]),
        ({"method.name": "mt-pkdot", "method.top_k": 5}, ["joint", "face", "voice", "heart"]),
    ],
)
def test_whom_a_method_listens_to(small_dataset, plan, overrides, expected):
    study = plan(small_dataset(), overrides)
    assert study.teachers_of(study.config) == expected


def test_a_trial_is_the_study_with_what_is_proposed(small_dataset, plan):
    study = plan(small_dataset(), {"search.space": {"method.alpha": {"float": [0, 1]}}})
    trial = study.trial_config({"method.name": "pkd", "method.theta": 0.4, "training.learning_rate": 0.5})
    assert trial.method.model_dump() == {
        "name": "pkd",
        "teachers": None,
        "selection": "batch",
        "preset": "recommended",
        "alpha": 0.7,
        "theta": 0.4,
    }
    assert trial.training.learning_rate == 0.5
    assert trial.student == study.config.student
    with pytest.raises(ConfigError, match="the trial's configuration"):
        study.trial_config({"method.alpha": -1})


def test_it_travels(small_dataset, plan):
    study = plan(small_dataset())
    again = pickle.loads(pickle.dumps(study))  # noqa: S301
    assert again.pool_fingerprint == study.pool_fingerprint
    assert again.config == study.config


@pytest.mark.parametrize(
    ("task", "kind", "overrides", "expected"),
    [
        (
            "classification",
            "vectors",
            {"dataset.prevalent": ["face", "smell"]},
            "dataset: there is no modality 'smell' in small-classification-vectors; it has face, voice, heart",
        ),
        (
            "classification",
            "vectors",
            {"dataset.privileged": ["touch"]},
            "dataset: there is no modality 'touch' in small-classification-vectors; it has face, voice, heart",
        ),
        (
            "classification",
            "vectors",
            {"teachers.pool": [{"name": "joint"}, {"name": "odd", "modalities": ["voice", "smell"]}]},
            "teachers.pool.1.modalities: smell is neither prevalent nor privileged; choose from face, voice, heart",
        ),
        (
            "classification",
            "vectors",
            {"dataset.privileged": ["heart"], "teachers.pool": [{"name": "joint", "modalities": ["voice"]}]},
            "teachers.pool.0.modalities: voice is neither prevalent nor privileged; choose from face, heart",
        ),
        (
            "classification",
            "vectors",
            {"teachers.pool": [{"name": "joint"}, {"name": "voice"}]},
            "teachers.pool: a teacher is called 'voice' like the adapter of that modality; rename it, or set "
            "teachers.adapters.enabled to false",
        ),
        (
            "classification",
            "vectors",
            {"method.teachers": ["joint", "tutor"]},
            "method.teachers: no teacher is called tutor; the pool has joint, face, voice, heart",
        ),
        (
            "classification",
            "vectors",
            {"search.space": {"method.teachers": {"subset": ["voice", "tutor"]}}},
            "search.space.method.teachers: no teacher is called tutor; the pool has joint, face, voice, heart",
        ),
        (
            "classification",
            "vectors",
            {"search.space": {"method.teachers": {"choice": [["joint"], ["joint", "tutor"], None]}}},
            "search.space.method.teachers: no teacher is called tutor; the pool has joint, face, voice, heart",
        ),
        (
            "classification",
            "vectors",
            {"search.metric": "ccc"},
            "search.metric: there is no metric 'ccc' for classification; choose from accuracy, balanced_accuracy, "
            "macro_f1",
        ),
        (
            "regression",
            "vectors",
            {"search.metric": "accuracy"},
            "search.metric: there is no metric 'accuracy' for regression; choose from ccc, mse, mae",
        ),
        (
            "classification",
            "vectors",
            {"dataset.fold": 5},
            "dataset.fold: is 5, but small-classification-vectors declares folds 0 to 4",
        ),
        (
            "classification",
            "vectors",
            {"method.name": "pkd", "method.theta": 1.5},
            "method.theta: 1.5 is outside [0, 1], the domain of theta for classification",
        ),
        (
            "classification",
            "vectors",
            {"method.name": "pkd", "search.space": {"method.theta": {"float": [0.5, 2]}}},
            "method.theta: 2.0 is outside [0, 1], the domain of theta for classification",
        ),
        (
            "regression",
            "vectors",
            {"method.name": "kl"},
            "method.name: kl compares class probabilities, which a regression has not; use pkd or pkdot",
        ),
        (
            "regression",
            "vectors",
            {"search.space": {"method.name": {"choice": ["pkd", "kl"]}}},
            "method.name: kl compares class probabilities, which a regression has not; use pkd or pkdot",
        ),
        (
            "regression",
            "vectors",
            {"task_loss": "ordinal"},
            "task_loss: ordinal compares classes, which a regression has not; use ccc or mse",
        ),
        (
            "regression",
            "frames",
            {"task_loss": "cross_entropy"},
            "task_loss: cross_entropy compares classes, which a regression has not; use ccc or mse",
        ),
        (
            "classification",
            "vectors",
            {"task_loss": "mse"},
            "task_loss: mse compares numbers, which classes are not; use cross_entropy or ordinal",
        ),
        (
            "classification",
            "vectors",
            {"student.encoder.kind": "gru"},
            "student.encoder.kind: a gru encoder needs features of shape [T, d], not [5], as face is; set "
            "student.encoders.face.kind to mlp",
        ),
        (
            "classification",
            "sequences",
            {"teachers.encoder.kind": "gru"},
            "teachers.encoder.kind: a gru encoder needs features of shape [T, d], not [3], as heart is; set "
            "teachers.encoders.heart.kind to mlp",
        ),
        (
            "classification",
            "vectors",
            {"search.space": {"student.encoder.kind": {"choice": ["mlp", "gru"]}}},
            "search.space.student.encoder.kind: a gru encoder needs features of shape [T, d], not [5], as face is; set "
            "student.encoders.face.kind to mlp",
        ),
        (
            "classification",
            "vectors",
            {"student.encoders": {"voice": {"kind": "mlp"}}},
            "student.encoders: voice is not among face",
        ),
        (
            "classification",
            "vectors",
            {"teachers.encoders": {"smell": {"kind": "mlp"}}},
            "teachers.encoders: smell is not among face, voice, heart",
        ),
        (
            "regression",
            "frames",
            {"dataset.prevalent": ["heart"]},
            "dataset.prevalent: the targets are per frame, but heart has no frames; add one of face, voice",
        ),
        (
            "regression",
            "frames",
            {"teachers.pool": [{"name": "joint"}, {"name": "calm", "modalities": ["heart"]}]},
            "teachers.pool.1.modalities: the targets are per frame, but heart has no frames; add one of face, voice",
        ),
        *(
            (
                "classification",
                "vectors",
                {"teachers.pool": [{"name": "joint"}, {"name": name}]},
                f"teachers.pool.1.name: '{name}' is the name of another file or folder of a pool; rename the teacher",
            )
            for name in ("embeddings", "tnets", "joint.adapters", "pool.yaml")
        ),
    ],
)
def test_a_fault_is_told(small_dataset, plan, task, kind, overrides, expected):
    assert faults(plan, small_dataset(task, kind), overrides) == [expected]


def test_all_faults_are_told_at_once(small_dataset, plan):
    told = faults(
        plan,
        small_dataset("regression", "sequences"),
        {
            "dataset.prevalent": ["face", "smell"],
            "dataset.fold": 7,
            "search.metric": "beauty",
            "method.name": "kl",
            "method.teachers": ["tutor"],
            "student.encoders": {"voice": {"kind": "mlp"}},
        },
    )
    assert len(told) == 6
    for part in ("'smell'", "folds 0 to 4", "'beauty'", "kl compares", "tutor", "voice is not among"):
        assert sum(part in fault for fault in told) == 1, part


IMAGES = DatasetInfo(
    name="raw",
    task="classification",
    classes=("calm", "pain"),
    modalities={
        "face": Modality(kind="images", shape=(6, 40, 36, 3)),
        "mouth": Modality(kind="images", shape=(6, 20, 18, 3)),
        "emg": Modality(shape=(17, 9)),
        "age": Modality(shape=(1,)),
    },
)


def image_faults(overrides):
    base = {"name": "raw", "dataset": {"path": "raw", "prevalent": ["face"]}}
    with pytest.raises(ConfigError) as told:
        plan_without_data(build_config(apply_overrides(base, overrides)), IMAGES)
    return list(told.value.details)


def test_every_encoder_that_does_not_fit_its_modality_is_told_at_once():
    pictures = "set {}.encoders.{}.kind to {}r3d18 or r3d18_lstm or resnet18"
    assert image_faults(
        {
            "teachers.encoder.kind": "tcn",
            "teachers.encoders": {"mouth": {"kind": "vgg19_gru"}, "emg": {"kind": "r3d18"}},
            "search.space": {"student.encoder.kind": {"choice": ["mlp", "vgg19_gru", "gru"]}},
        }
    ) == [
        "teachers.encoder.kind: a tcn encoder needs features of shape [T, d], not [6, 40, 36, 3], as face is; "
        + pictures.format("teachers", "face", "vgg19_gru or "),
        "teachers.encoders.mouth.kind: a vgg19_gru encoder needs frames of shape [T, H, W, 3] with H and W of at least "
        "32, not [6, 20, 18, 3], as mouth is; " + pictures.format("teachers", "mouth", ""),
        "teachers.encoders.emg.kind: a r3d18 encoder needs clips of shape [F, H, W, 3] or [L, F, H, W, 3], not "
        "[17, 9], as emg is; set teachers.encoders.emg.kind to mlp or gru or tcn or resnet18",
        "teachers.encoder.kind: a tcn encoder needs features of shape [T, d], not [1], as age is; set "
        "teachers.encoders.age.kind to mlp",
        "student.encoder.kind: an mlp encoder needs features of shape [d] or [T, d], not [6, 40, 36, 3], as face is; "
        + pictures.format("student", "face", "vgg19_gru or "),
        "search.space.student.encoder.kind: a gru encoder needs features of shape [T, d], not [6, 40, 36, 3], as face "
        "is; " + pictures.format("student", "face", "vgg19_gru or "),
    ]


def test_an_encoder_of_a_modality_that_no_teacher_sees_is_never_built_and_no_fault():
    vgg = {"kind": "vgg19_gru"}
    overrides = {
        "teachers.encoder": vgg,
        "student.encoder": vgg,
        "teachers.pool": [{"name": "one", "modalities": None}],
    }
    assert len(image_faults(overrides)) == 3
    overrides["teachers.pool"] = [{"name": "one", "modalities": ["face", "mouth"]}]
    assert len(image_faults(overrides)) == 1
    overrides["teachers.pool"] = [{"name": "one", "modalities": ["face"]}]
    base = {"name": "raw", "dataset": {"path": "raw", "prevalent": ["face"]}}
    planned = plan_without_data(build_config(apply_overrides(base, overrides)), IMAGES)
    assert planned.shapes(planned.pool["one"].modalities) == {"face": (6, 40, 36, 3)}
    assert planned.dataset_path == "raw"


def test_a_gru_where_there_are_sequences_is_no_fault(small_dataset, plan):
    study = plan(
        small_dataset("regression", "sequences"),
        {
            "teachers.encoder.kind": "gru",
            "teachers.encoders": {"heart": {"kind": "mlp"}},
            "student.encoder.kind": "gru",
            "search.space": {"student.encoder.kind": {"choice": ["mlp", "gru"]}},
        },
    )
    assert study.config.student.encoder.kind == "gru"
    gated = plan(small_dataset("regression"), {"method.name": "pkd", "method.theta": 1.9})
    assert gated.config.method.theta == 1.9


@pytest.mark.parametrize(
    "overrides",
    [
        {"method.name": "pkd", "method.theta": 0.6},
        {"method.name": "pkd", "search.space": {"method.theta": {"choice": [None, 0.6]}}},
    ],
)
def test_the_gate_of_a_regression_needs_sequences_of_several_samples(small_dataset, plan, tmp_path, overrides):
    several = small_dataset("regression")
    plan(several, overrides)
    single = write_dataset(
        tmp_path / "single",
        several.info.model_copy(update={"checksums": {}, "fingerprint": ""}),
        several.samples.assign(sequence_id=several.samples["sample_id"]),
        {name: several.features(name) for name in several.info.modalities},
    )
    with pytest.raises(ConfigError, match="every sequence of small-regression-vectors is one sample"):
        plan(single, overrides)
    plan(single, {"method.name": "pkd"})


# The fingerprint of a pool: training the teachers again is hours, reusing the wrong ones is a wrong paper.


@pytest.mark.parametrize(
    "overrides",
    [
        {"seed": 4},
        {"dataset.fold": 1},
        {"dataset.fold": 0},
        {"dataset.prevalent": ["voice"]},
        {"dataset.privileged": ["voice"]},
        {"teachers.embedding": 12},
        {"teachers.fusion": "gated"},
        {"teachers.encoder.dropout": 0.2},
        {"teachers.encoders": {"heart": {"hidden": [5]}}},
        {"teachers.training.epochs": 5},
        {"teachers.adapters.enabled": False},
        {"teachers.adapters.hidden": [5]},
        {"teachers.pool": [{"name": "other"}]},
        {"teachers.pool": [{"name": "joint", "modalities": ["voice"]}]},
        {"search.metric": "macro_f1"},
        {"task_loss": "ordinal"},
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_what_the_teachers_depend_on(small_dataset, plan, overrides):
    dataset = small_dataset()
    assert plan(dataset, overrides).pool_fingerprint != plan(dataset).pool_fingerprint


def test_the_fingerprint_changes_with_the_data(small_dataset, plan):
    assert plan(small_dataset(seed=1)).pool_fingerprint != plan(small_dataset()).pool_fingerprint


@pytest.mark.parametrize(
    "overrides",
    [
        {"name": "renamed"},
        {"student.encoder.hidden": [77]},
        {"student.fusion": "gated"},
        {"student.tnet.training": "joint"},
        {"method.name": "pkd", "method.theta": 0.3},
        {"training.epochs": 9},
        {"search.trials": 5, "search.space": {"training.learning_rate": {"float": [0.001, 0.1], "log": True}}},
        {"resources.workers_per_teacher": 2},
        # Written out or left to the default, a thing is the same.
        {"search.metric": "accuracy"},
        {"task_loss": "cross_entropy"},
        {"dataset.privileged": ["voice", "heart"]},
        {"teachers.pool": [{"name": "joint", "modalities": ["face", "voice", "heart"]}]},
        {"dataset.path": "elsewhere"},
    ],
    ids=str,
)
def test_the_fingerprint_stays_with_what_they_do_not_depend_on(small_dataset, plan, overrides):
    dataset = small_dataset()
    assert plan(dataset, overrides).pool_fingerprint == plan(dataset).pool_fingerprint


def test_the_fingerprint_does_not_hang_on_where_the_data_lies(small_dataset, plan, tmp_path):
    from pkdray.data.dataset import Dataset

    dataset = small_dataset()
    before = plan(dataset).pool_fingerprint
    moved = Dataset.open(dataset.path.rename(tmp_path / "moved"))
    assert plan(moved).pool_fingerprint == before


def test_something_must_be_left_for_the_teachers_alone(small_dataset, plan):
    with pytest.raises(ConfigError, match="nothing is left that only a teacher sees"):
        plan(small_dataset(), {"dataset.prevalent": ["face", "voice", "heart"]})
