"""The sections: their defaults, their domains, and that a configuration is what it says it is."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pkdray.config import METHODS, Config, SearchConfig, apply_overrides, build_config
from pkdray.config.methods import CARRIED_OVER
from pkdray.config.sections import SAMPLERS

BASE: dict[str, Any] = {"name": "study", "dataset": {"path": "mfeat", "prevalent": ["fou"]}}


def test_a_minimal_study_has_a_default_for_everything_else() -> None:
    config = build_config(BASE)
    assert (config.method.name, config.seed, config.search.space) == ("pkdot", 0, {})
    assert [teacher.name for teacher in config.teachers.pool] == ["joint"]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"method": {"name": "mt-pkdot", "teachers": ["joint"], "selection": "uniform"}},
        {"method": {"name": "hint", "alpha": "learned", "preset": "faithful"}, "task_loss": "ordinal"},
        {"method": {"name": "cc", "alpha": "learned", "order": 3, "selection": "confidence"}},
        {"method": {"name": "supervised"}, "search": {"asha": None, "metric": "accuracy"}},
        {"student": {"fusion": "gated", "encoders": {"fou": {"kind": "gru", "hidden": [17, 29]}}}},
        {"teachers": {"fusion": "jmt", "encoders": {"fou": {"kind": "resnet18"}, "kar": {"kind": "tcn"}}}},
        {"student": {"encoders": {"fou": {"kind": "vgg19_gru", "weights": "vgg19.safetensors", "freeze": True}}}},
        {
            "search": {
                "space": {
                    "student.encoder.hidden": {"choice": [[64], [64, 32]]},
                    "training.learning_rate": {"float": [1e-4, 1e-2], "log": True, "points": 5},
                    "training.batch_size": {
                        "int": [50, 100],
                        "step": 10,
                        "when": {"training.optimizer": ["sgd", "adam"]},
                    },
                    "method.alpha": [
                        {"float": [0.1, 1], "when": {"method.name": "kl"}},
                        {"float": [0.1, 3], "when": {"method.name": ["pkdot"]}},
                    ],
                    "method.teachers": {"subset": ["joint", "b"], "min": 2},
                }
            }
        },
    ],
)
def test_a_configuration_survives_its_own_plain_form(data: dict[str, Any]) -> None:
    config = build_config({**BASE, **data})
    assert build_config(config.model_dump(mode="json", by_alias=True)) == config
    assert Config.model_validate_json(config.model_dump_json(by_alias=True)) == config


def test_every_method_is_found_under_its_name_and_keeps_what_is_carried_over() -> None:
    assert len(METHODS) == 10
    for name, kind in METHODS.items():
        method = build_config({**BASE, "method": {"name": name}}).method
        assert type(method) is kind
        carried = [field for field in CARRIED_OVER if field in kind.model_fields]
        assert carried in ([], list(CARRIED_OVER))
        assert build_config(apply_overrides({**BASE, "method": {"name": "kl"}}, {"method.name": name})).method == method


def test_the_list_of_samplers_is_that_of_the_field() -> None:
    for sampler in SAMPLERS:
        assert SearchConfig(sampler=sampler).sampler == sampler
    with pytest.raises(ValidationError, match="'tpe', 'gp', 'nsga2', 'random' or 'grid'"):
        SearchConfig.model_validate({"sampler": "cmaes"})


def test_nothing_changes_after_loading_and_nothing_unknown_is_kept() -> None:
    def check(section: BaseModel) -> None:
        assert section.model_config["frozen"]
        assert section.model_config["extra"] == "forbid"
        for field in type(section).model_fields:
            value = getattr(section, field)
            if isinstance(value, BaseModel):
                check(value)

    config = build_config(BASE)
    check(config)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dataset.privileged": ["fac", "fou"]}, "fou cannot be prevalent and privileged at once"),
        ({"teachers.pool": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}, "two teachers are called a"),
        ({"teachers.pool": []}, "at least 1 item"),
        ({"teachers.pool.0.modalities": []}, "at least 1 item"),
        ({"teachers.pool.0.name": "../x"}, "match pattern"),
        ({"name": ""}, "match pattern"),
        ({"name": "x" * 81}, "at most 80 characters"),
        ({"seed": 2**31}, "less than 2147483648"),
        ({"training.batch_size": 30, "method.top_k": 30}, "a batch of 30 has at most 29 anchors a row"),
        ({"training.batch_size": 1}, "greater than or equal to 2"),
        ({"training.learning_rate": float("nan")}, "finite"),
        ({"training.gradient_clip": float("inf")}, "finite"),
        ({"student.encoder.dropout": 1}, "less than 1"),
        ({"student.encoder.hidden": []}, "at least 1 item"),
        ({"student.encoder.kind": "lstm"}, "'mlp', 'gru', 'tcn', 'vgg19_gru', 'r3d18', 'r3d18_lstm' or 'resnet18'"),
        ({"student.encoder": {"kind": "r3d18", "hidden": [64]}}, "a r3d18 gives its own 512 features"),
        ({"student.encoder.weights": "a.pth"}, "kind mlp has none"),
        ({"student.encoder": {"kind": "resnet18", "freeze": True}}, "freeze is set without weights"),
        ({"teachers.fusion": "sum"}, "'concat', 'gated', 'jca', 'transformer' or 'jmt'"),
        ({"search.asha.reduction_factor": 1}, "greater than or equal to 2"),
        ({"search.space": ["a"]}, "valid dictionary"),
        ({"resources.cpus_per_trial": 0}, "greater than 0"),
    ],
)
def test_domains(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(apply_overrides(BASE, overrides))


def test_a_batch_may_be_small_where_no_anchors_are_taken() -> None:
    assert build_config({**BASE, "method": {"name": "kl"}, "training": {"batch_size": 2}}).training.batch_size == 2


def test_one_alternative_may_be_written_without_a_list() -> None:
    one, listed = (
        SearchConfig.model_validate({"space": {"training.epochs": parameter}})
        for parameter in ({"int": [1, 2]}, [{"int": [1, 2]}])
    )
    assert one == listed


@pytest.mark.parametrize("module", ["pkdray.config", "pkdray.search.space"])
def test_neither_torch_nor_ray_is_imported(module: str) -> None:
    code = f"import {module}, sys; sys.exit(bool({{'torch', 'ray'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "overrides",
    [
        {"dataset.prevalent": ["fou", "kar", "fou"]},
        {"dataset.privileged": ["fac", "fac"]},
        {"teachers.pool": [{"name": "a", "modalities": ["fac", "fou", "fac"]}]},
    ],
)
def test_a_modality_is_named_once(overrides: dict[str, object]) -> None:
    data: dict[str, object] = {"name": "study", "dataset": {"path": "mfeat", "prevalent": ["fou"]}}
    with pytest.raises(ValidationError, match="twice"):
        Config.model_validate(apply_overrides(data, overrides))
