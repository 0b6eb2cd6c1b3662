"""From YAML to a Config: every fault at once, each with its path, its line and a cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pkdray.config import METHODS, Config, apply_overrides, build_config, load_config, override, parse_assignments
from pkdray.errors import ConfigError

SPACES = Path(__file__).parents[2] / "search_spaces"
BASE: dict[str, Any] = {"name": "study", "dataset": {"path": "mfeat", "prevalent": ["fou"]}}


def with_(**overrides: Any) -> Config:
    return build_config(apply_overrides(BASE, {path.replace("__", "."): value for path, value in overrides.items()}))


def faults(data: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        build_config({**BASE, **data})
    assert caught.value.cure
    return caught.value.details


def space_faults(space: dict[str, Any], **data: Any) -> tuple[str, ...]:
    return faults({"search": {"space": space}, **data})


def write(folder: Path, text: str, name: str = "study.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def file_faults(folder: Path, text: str, overrides: dict[str, Any] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, text), overrides)
    return caught.value


# Shipped files


def test_every_shipped_search_space_loads_and_survives_a_round_trip() -> None:
    paths = sorted(SPACES.rglob("*.yaml")) + sorted(SPACES.rglob("*.yml"))
    assert paths
    for path in paths:
        config = load_config(path)
        assert config.name == path.stem or config.name
        plain = config.model_dump(mode="json", by_alias=True)
        assert build_config(plain) == config, path
        # As a run's folder would keep it.
        assert build_config(yaml.safe_load(yaml.safe_dump(plain))) == config, path


def test_the_name_defaults_to_the_files() -> None:
    assert load_config(SPACES / "mfeat_demo.yaml").name == "mfeat_demo"


# Files that cannot be read


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read .*nowhere\.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read .*: Is a directory"):
        load_config(tmp_path)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"not text in UTF-8 \(byte 6\)"):
        load_config(path)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "# only a comment\n"])
def test_a_file_that_holds_no_mapping(tmp_path: Path, text: str) -> None:
    assert "holds no mapping" in file_faults(tmp_path, text).what


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("name: x\ndataset: {path: a\ntraining: 3\n", "line 3"),
        ("a: b: c\n", "line 1, column 5"),
        ("a: 1\n---\nb: 2\n", "line 2"),
        ("a: &x 1\nb: *y\n", "line 2"),
        ("a: !!python/name:os.system\n", "line 1"),
        ("a: \x00\n", "study.yaml is not YAML"),
    ],
)
def test_a_file_that_is_not_yaml_says_where(tmp_path: Path, text: str, where: str) -> None:
    error = file_faults(tmp_path, text)
    assert "is not YAML" in error.what
    assert where in error.what
    assert error.cure


def test_keys_named_twice_are_all_told(tmp_path: Path) -> None:
    text = "name: x\ntraining:\n  epochs: 1\n  epochs: 2\nteachers:\n  pool:\n    - {name: a, name: b}\nname: y\n"
    error = file_faults(tmp_path, text)
    assert error.details == (
        "training.epochs: lines 3 and 4",
        "teachers.pool.0.name: lines 7 and 7",
        "name: lines 1 and 8",
    )


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    text = """
dataset: {path: mfeat, prevalent: [fou]}
search:
  space:
    training.learning_rate: {choice: [1e-4, 1e-3, 2.E-3, .5e-2]}
    training.optimizer: {choice: [adam, sgd]}
"""
    space = load_config(write(tmp_path, text)).search.space
    assert space["training.learning_rate"][0].choice == [1e-4, 1e-3, 2e-3, 5e-3]
    assert parse_assignments(["a=1e-3", "b=e5", "c=1e", "d=-2E+4"]) == {"a": 1e-3, "b": "e5", "c": "1e", "d": -2e4}


# Faults


def test_every_fault_is_told_at_once_with_path_line_and_cure(tmp_path: Path) -> None:
    text = """dataset:
  path: mfeat
  prevalent: [fou]
training: {epochs: 0, learning_rat: 1}
teachers:
  pool:
    - {name: joint, modalites: [a]}
    - {name: 5}
  encoders: {fou: {hidden: [0]}}
method: {name: pkdot, alfa: 1}
search:
  space:
    method.alpha: {float: [2, 1]}
    method.epsilon:
      - {float: [x, 1]}
      - {int: [1.5, 1], when: {a: {b: 1}}}
    method.top_k: {inte: [1, 2]}
"""
    error = file_faults(tmp_path, text)
    assert f"{tmp_path}/study.yaml has 11 faults" in error.what
    assert set(error.details) == {
        "teachers.pool.0.modalites (line 7): unknown key; did you mean 'modalities'?",
        "teachers.pool.1.name (line 8): must be a valid string (got 5)",
        "teachers.encoders.fou.hidden.0 (line 9): must be greater than or equal to 1 (got 0)",
        "method.alfa (line 10): unknown key; did you mean 'alpha'?",
        "training.epochs (line 4): must be greater than or equal to 1 (got 0)",
        "training.learning_rat (line 4): unknown key; did you mean 'learning_rate'?",
        "search.space.method.alpha (line 13): [2.0, 1.0] is not a range: write the lower end first, both finite",
        "search.space.method.epsilon.0.float.0 (line 15): "
        "must be a valid number, unable to parse string as a number (got 'x')",
        "search.space.method.epsilon.1.int.0 (line 16): "
        "must be a valid integer, got a number with a fractional part (got 1.5)",
        "search.space.method.epsilon.1.when (line 16): a must be a value or a list of values (got {'b': 1})",
        "search.space.method.top_k.inte (line 17): unknown key; did you mean 'int'?",
    }


def test_one_fault_is_counted_as_one() -> None:
    with pytest.raises(ConfigError, match="the configuration has one fault"):
        build_config({**BASE, "seed": -1})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"dataset": {"path": "x"}}, "dataset.prevalent: is required"),
        ({"dataset": {"path": "x", "prevalent": []}}, "dataset.prevalent: List should have at least 1 item"),
        ({"dataset": None}, "dataset: must be a valid dictionary"),
        ({"seed": "many"}, "seed: must be a valid integer"),
        ({"method": {"name": "pkdt"}}, f"method.name: must be one of {', '.join(METHODS)}; got 'pkdt'"),
        ({"method": {"name": "pkdt"}}, "did you mean 'pkdot'?"),
        ({"method": {"alpha": 1}}, f"method.name: must be one of {', '.join(METHODS)}; got None"),
        ({"method": "kl"}, "method: must be a valid dictionary"),
        (
            {"method": {"name": "kl", "epsilon": 1}},
            "method.epsilon: unknown key; it belongs to pkdot, mt-pkdot",
        ),
        ({"method": {"name": "kl", "alpha": 2}}, "method.alpha: must be less than or equal to 1 (got 2)"),
        ({"method": {"name": "pkdot", "alpha": float("inf")}}, "method.alpha: must be a finite number"),
        ({"method": {"name": "kl", "alpha": "lerned"}}, "method.alpha: must be a number or 'learned' (got 'lerned')"),
        ({"method": {"name": "sp", "alpha": None}}, "method.alpha: must be a number or 'learned' (got None)"),
        ({"method": {"name": "sp", "alpha": -1}}, "method.alpha: must be greater than or equal to 0 (got -1)"),
        (
            {"method": {"name": "rkd", "alpha": "learned"}},
            "method.alpha: unknown key; it belongs to kl, hint, pkd, sp, cc",
        ),
        (
            {"method": {"name": "rkd", "angle_weight": "learned"}},
            "method.angle_weight: must be a valid number, unable to parse string as a number (got 'learned')",
        ),
        (
            {"method": {"name": "pkd", "preset": "fathful"}},
            "method.preset: must be 'recommended' or 'faithful' (got 'fathful')",
        ),
        ({"method": {"name": "pkd", "selection": "best"}}, "method.selection: must be 'batch', 'sample', 'uniform' or"),
        (
            {"method": {"name": "supervised", "preset": "faithful"}},
            "method.preset: unknown key; it belongs to kl, hint",
        ),
        ({"task_loss": "mae"}, "task_loss: must be 'cross_entropy', 'ordinal', 'ccc' or 'mse' (got 'mae')"),
        ({"training": {"optimizer": "adm"}}, "training.optimizer: must be 'adam', 'adamw' or 'sgd' (got 'adm')"),
        ({"trainin": {}}, "trainin: unknown key; did you mean 'training'?"),
        ({"zzz": {}}, "zzz: unknown key; known here: name, seed, dataset"),
        ({"student": {"tnet": {"fit": {"epoch": 1}}}}, "student.tnet.fit.epoch: unknown key; did you mean 'epochs'?"),
        ({"search": {"asha": {"grace": 1}}}, "search.asha.grace: unknown key; did you mean 'grace_epochs'?"),
        ({"name": "has a space"}, "name: String should match pattern"),
        ({"seed": "9" * 200}, "..."),
    ],
)
def test_a_fault_names_its_path_what_came_and_what_may(data: dict[str, Any], expected: str) -> None:
    (detail,) = faults(data)
    assert expected in detail
    assert len(detail) < 250


def test_a_fault_of_the_whole_names_the_fields_it_takes() -> None:
    (detail,) = faults({"training": {"batch_size": 30}, "method": {"name": "pkdot", "top_k": 30}})
    assert detail.startswith("method.top_k is 30, but a batch of 30 has at most 29 anchors a row")


def test_the_line_is_that_of_the_nearest_parent_that_is_there(tmp_path: Path) -> None:
    error = file_faults(tmp_path, "name: x\n\ndataset:\n  path: mfeat\n")
    assert error.details == ("dataset.prevalent (line 3): is required",)


# Overrides


def test_an_override_reaches_fields_that_the_yaml_leaves_out_and_keeps_their_neighbours() -> None:
    config = with_(training__epochs=5, student__encoder__hidden=[7, 3], teachers__encoders__fou__hidden=[9])
    assert config.training == Config.model_validate(BASE).training.model_copy(update={"epochs": 5})
    assert config.student.encoder.hidden == [7, 3]
    assert config.teachers.encoders["fou"].hidden == [9]


def test_an_override_of_the_default_method_keeps_it() -> None:
    method = with_(method__alpha=0.25).method
    assert (method.name, method.alpha, method.top_k) == ("pkdot", 0.25, 30)


def test_an_override_reaches_into_lists() -> None:
    data = {**BASE, "teachers": {"pool": [{"name": "a"}, {"name": "b", "modalities": ["x"]}]}}
    pool = build_config(apply_overrides(data, {"teachers.pool.1.name": "c"})).teachers.pool
    assert [(teacher.name, teacher.modalities) for teacher in pool] == [("a", None), ("c", ["x"])]
    assert data["teachers"]["pool"][1]["name"] == "b", "the data itself is untouched"
    hidden = build_config(apply_overrides(data, {"student.tnet.hidden.1": 17})).student.tnet.hidden
    assert hidden == [256, 17, 256]


def test_an_override_reaches_into_a_list_that_is_only_a_default() -> None:
    assert [teacher.name for teacher in with_(teachers__pool__0__name="big").teachers.pool] == ["big"]


def test_an_override_revives_a_section_that_was_off() -> None:
    config = build_config(apply_overrides({**BASE, "search": {"asha": None}}, {"search.asha.grace_epochs": 3}))
    assert config.search.asha is not None
    assert (config.search.asha.grace_epochs, config.search.asha.reduction_factor) == (3, 3)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("teachers.pool.1.name", "teachers.pool.1 has no fields"),
        ("teachers.pool.first.name", "teachers.pool.first has no fields"),
        ("teachers.pool.1", "1 is not one of the 1 entries"),
        ("teachers.pool.-1", "-1 is not one of the 1 entries"),
        ("name.first", "name has no fields"),
        ("dataset.path.x.y", "dataset.path has no fields"),
    ],
)
def test_an_override_that_leads_nowhere(path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({**BASE, "teachers": {"pool": [{"name": "joint"}]}}, {path: 1})
    assert message in caught.value.what
    assert path in caught.value.what
    assert caught.value.cure


def test_an_override_of_an_unknown_field_is_told_like_one_in_the_file() -> None:
    with pytest.raises(ConfigError, match=r"training\.epoch: unknown key; did you mean 'epochs'"):
        with_(training__epoch=3)


def test_a_fault_in_an_override_points_at_the_override_and_not_at_the_line_it_replaced(tmp_path: Path) -> None:
    text = "dataset: {path: mfeat, prevalent: [fou]}\ntraining:\n  epochs: 5\n  patience: 0\n"
    error = file_faults(tmp_path, text, {"training.epochs": 0, "search.space.training.epochs": {"int": [2, 1]}})
    assert [detail.split(":")[0] for detail in error.details] == [
        "training.epochs (--set)",
        "training.patience (line 4)",
        "search.space.training.epochs (--set)",
    ]


def test_nothing_below_an_override_keeps_its_old_line(tmp_path: Path) -> None:
    text = "dataset: {path: mfeat, prevalent: [fou]}\nsearch:\n  space:\n    seed: {int: [1, 2]}\n"
    error = file_faults(tmp_path, text, {"search.space": {"seed": {"int": [3, 4]}}})
    assert error.details[0].startswith("search.space.seed (--set): cannot be searched")


def test_a_new_method_drops_foreign_hyperparameters_and_keeps_the_teachers() -> None:
    data = {
        **BASE,
        "method": {"name": "pkdot", "alpha": 7.0, "epsilon": 0.5, "teachers": ["joint"], "selection": "sample"},
    }
    method = build_config(apply_overrides(data, {"method.temperature": 4, "method.name": "kl"})).method
    assert method.model_dump() == {
        "name": "kl",
        "alpha": 0.7,
        "temperature": 4.0,
        "theta": None,
        "teachers": ["joint"],
        "selection": "sample",
        "preset": "recommended",
    }
    assert build_config(apply_overrides(data, {"method.name": "supervised"})).method.model_dump() == {
        "name": "supervised"
    }
    same = build_config(apply_overrides(data, {"method.name": "pkdot"})).method
    assert (same.alpha, same.epsilon) == (7.0, 0.5)


@pytest.mark.parametrize("name", ["klx", None, ["kl"], {"a": 1}, 3])
def test_an_override_by_a_method_that_does_not_exist(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"method\.name: must be one of supervised, kl"):
        with_(method__name=name)


def test_the_keys_of_the_space_are_dotted_in_overrides_too() -> None:
    for data in (BASE, {**BASE, "search": None}, {**BASE, "search": {"space": {"method.alpha": {"float": [0, 1]}}}}):
        config = build_config(apply_overrides(data, {"search.space.training.epochs": {"int": [2, 9]}}))
        assert config.search.space["training.epochs"][0].range == (2, 9)


def test_override_validates_again_and_leaves_the_original() -> None:
    config = load_config(SPACES / "mfeat_demo.yaml")
    changed = override(config, {"training.epochs": 3, "method.name": "kl"})
    assert (changed.training.epochs, changed.method.name, config.training.epochs) == (3, "kl", 60)
    assert changed.search == config.search
    with pytest.raises(ConfigError, match="the overridden configuration has one fault"):
        override(config, {"training.epochs": 0})


# --set


def test_assignments_are_yaml() -> None:
    assert parse_assignments(["a.b=1", " c = [x, 2]", "d=", "e=a=b", "f='1'", "g=true", "h={x: null}", "a.b=2"]) == {
        "a.b": 2,
        "c": ["x", 2],
        "d": None,
        "e": "a=b",
        "f": "1",
        "g": True,
        "h": {"x": None},
    }


@pytest.mark.parametrize("text", ["a", "=1", "  =1", ""])
def test_what_is_no_assignment(text: str) -> None:
    with pytest.raises(ConfigError, match="is no assignment") as caught:
        parse_assignments([text])
    assert repr(text) in str(caught.value)
    assert "path.to.field=value" in str(caught.value)


@pytest.mark.parametrize("text", ["a=[1", "a={x: 1", "a=b: c: d"])
def test_an_assignment_whose_value_is_not_yaml(text: str) -> None:
    with pytest.raises(ConfigError, match="the value is not YAML") as caught:
        parse_assignments([text])
    assert repr(text) in str(caught.value)


# The search space against the fields


@pytest.mark.parametrize("path", [
    "search.trials", "resources.cpus_per_trial", "name", "dataset.path", "seed", "task_loss",
])  # fmt: skip
def test_what_belongs_to_the_run_cannot_be_searched(path: str) -> None:
    (detail,) = space_faults({path: {"choice": [1, 2]}})
    assert detail.startswith(f"search.space.{path}: cannot be searched")


def test_teachers_cannot_be_searched() -> None:
    (detail,) = space_faults({"teachers.training.epochs": {"int": [1, 2]}})
    assert "search method.teachers instead" in detail


@pytest.mark.parametrize(
    ("path", "parameter", "expected"),
    [
        ("training.epochs", {"int": [0, 9]}, "may propose 0: training.epochs: must be greater than or equal to 1"),
        ("training.learning_rate", {"float": [1, 99]}, "may propose 99.0: training.learning_rate: must be less"),
        ("training.optimizer", {"choice": ["adam", "adm"]}, "may propose 'adm': training.optimizer: must be 'adam'"),
        ("training.epoch", {"int": [1, 9]}, "training.epoch: unknown key; did you mean 'epochs'?"),
        ("training.epochs.x", {"int": [1, 9]}, "may propose 1: training.epochs.x: training.epochs has no fields"),
        (
            "student.encoder.hidden",
            {"choice": [[64], 64]},
            "may propose 64: student.encoder.hidden: must be a valid list",
        ),
        (
            "student.encoder.hidden",
            {"choice": [[64], [0]]},
            "student.encoder.hidden.0: must be greater than or equal to 1",
        ),
        ("method.temperature", {"float": [1, 2]}, "method.temperature: unknown key"),
        ("method.name", {"choice": ["kl", "kll"]}, "may propose 'kll': method.name: must be one of"),
        ("method.alpha", {"float": [0, 2], "when": {"method.name": "kl"}}, "may propose 2.0 where method.name is kl:"),
        ("training.epochs", {"int": [1, 9], "when": {"method.nme": 1}}, "`when` names method.nme, which is neither"),
        (
            "training.epochs",
            {"int": [1, 9], "when": {"method.name": "klx"}},
            "where method.name is klx: method.name: must",
        ),
    ],
)
def test_everything_that_the_space_can_propose_is_checked(path: str, parameter: dict[str, Any], expected: str) -> None:
    details = space_faults({path: parameter})
    assert all(detail.startswith(f"search.space.{path}: ") for detail in details)
    assert any(expected in detail for detail in details)


def test_faults_of_the_space_come_all_at_once_with_lines(tmp_path: Path) -> None:
    text = """dataset: {path: mfeat, prevalent: [fou]}
search:
  space:
    training.epochs: {int: [0, 5]}
    method.alpha:
      - {float: [0.0, 1.0], when: {method.name: kl}}
      - float: [-1.0, 2.0]
        when: {method.name: [pkd]}
    seed: {int: [1, 2]}
"""
    details = file_faults(tmp_path, text).details
    assert [detail.split(": ")[0] for detail in details] == [
        "search.space.training.epochs (line 4)",
        "search.space.method.alpha.1 (line 7)",
        "search.space.method.alpha.1 (line 7)",
        "search.space.seed (line 9)",
    ]


def test_an_unconditional_hyperparameter_must_suit_every_searched_method() -> None:
    space = {"method.name": {"choice": ["pkdot", "kl"]}, "method.alpha": {"float": [0, 2]}}
    (detail,) = space_faults(space)
    assert detail.startswith(
        "search.space.method.alpha: may propose 2.0 where method.name is kl: method.alpha: must be less than or equal"
    )
    space["method.alpha"]["when"] = {"method.name": "pkdot"}
    build_config({**BASE, "search": {"space": space}})


def test_anchors_must_fit_the_smallest_searched_batch() -> None:
    space = {"training.batch_size": {"choice": [32, 100]}, "method.top_k": {"int": [8, 64]}}
    (detail,) = space_faults(space)
    assert "where" in detail
    assert "method.top_k is 64, but a batch of 32 has at most 31 anchors a row" in detail
    space["method.top_k"] = {"int": [8, 31]}
    build_config({**BASE, "search": {"space": space}})


def test_a_searched_field_is_judged_by_what_is_searched_and_not_by_the_default_it_replaces() -> None:
    # pkdot's default top_k of 30 does not fit a batch of 16, but no trial will use it.
    space = {
        "method.name": {"choice": ["kl", "pkdot"]},
        "method.epsilon": {"float": [0.1, 1], "when": {"method.name": "pkdot"}},
        "method.top_k": {"int": [4, 8], "when": {"method.name": "pkdot"}},
    }
    data = {**BASE, "method": {"name": "kl"}, "training": {"batch_size": 16}, "search": {"space": space}}
    build_config(data)
    space["method.top_k"]["int"] = [4, 16]
    fault = r"may propose 'pkdot' where method\.top_k is 16: .* at most 15 anchors"
    with pytest.raises(ConfigError, match=fault):
        build_config(data)


@pytest.mark.parametrize(("batch_size", "top_k"), [(2, 1), (16, 15), (30, 29), (31, 30), (100, 30)])
@pytest.mark.parametrize("method", [None, {"name": "pkdot"}, {"name": "mt-pkdot"}])
def test_a_top_k_that_is_not_asked_for_fits_the_batch(
    method: dict[str, str] | None, batch_size: int, top_k: int
) -> None:
    data = {**BASE, "training": {"batch_size": batch_size}, **({"method": method} if method else {})}
    config = build_config(data)
    assert config.method.top_k == top_k
    assert build_config(config.model_dump(mode="json", by_alias=True)) == config


# Presets

FAITHFUL: dict[str, dict[str, Any]] = {
    "kl": {"alpha": 0.5, "temperature": 2.0, "theta": None},
    "hint": {"alpha": pytest.approx(0.990099), "theta": None},
    "pkd": {"alpha": 0.2, "theta": None},
    "sp": {"alpha": 3000.0},
    "rkd": {"distance_weight": 25.0, "angle_weight": 50.0},
    "cc": {"alpha": 0.02, "gamma": 0.4, "order": 2},
    "crd": {"alpha": pytest.approx(0.444444, rel=1e-5), "temperature": 0.07, "theta": None},
    "pkdot": {"alpha": 0.6, "epsilon": 0.01, "anchors": "least_similar", "top_k": 30},
    "mt-pkdot": {
        "task_weight": 0.8,
        "alpha": 0.2,
        "centroid_weight": 0.0,
        "epsilon": 0.01,
        "anchors": "least_similar",
        "top_k": 30,
    },
}


@pytest.mark.parametrize("name", [name for name in METHODS if name != "supervised"])
def test_the_faithful_preset_has_the_authors_settings(name: str) -> None:
    config = build_config({**BASE, "method": {"name": name, "preset": "faithful"}})
    assert config.method.model_dump() == {
        "name": name, "preset": "faithful", "teachers": None, "selection": "batch", **FAITHFUL[name]
    }  # fmt: skip
    # The resolved configuration holds the values, so it does not hang on what a preset once meant.
    assert build_config(config.model_dump(mode="json", by_alias=True)) == config


@pytest.mark.parametrize("theta", [None, 0.8])
def test_a_field_that_is_given_wins_over_the_preset(theta: float | None) -> None:
    given = {"name": "pkd", "preset": "faithful", "alpha": 0.7, "theta": theta}
    assert build_config({**BASE, "method": given}).method.model_dump() | given == {
        **given, "teachers": None, "selection": "batch"
    }  # fmt: skip
    # With --set as well, on what the YAML says: there, 0.7 was given and is no default.
    method = build_config(apply_overrides({**BASE, "method": {**given, "preset": "recommended"}}, {
        "method.preset": "faithful"
    })).method  # fmt: skip
    assert (method.preset, method.alpha, method.theta) == ("faithful", 0.7, theta)


def test_a_preset_stays_with_the_teachers_when_the_method_changes() -> None:
    config = build_config({**BASE, "method": {"name": "pkd", "preset": "faithful"}})
    method = override(config, {"method.name": "mt-pkdot"}).method
    assert (method.preset, method.centroid_weight, method.epsilon) == ("faithful", 0.0, 0.01)
    assert override(config, {"method.name": "mt-pkdot", "method.alpha": 0.9}).method.alpha == 0.9


def test_a_preset_can_be_searched() -> None:
    space = {
        "method.name": {"choice": ["pkd", "pkdot"]},
        "method.preset": {"choice": ["recommended", "faithful"]},
    }
    config = build_config({**BASE, "method": {"name": "pkdot", "alpha": 0.9}, "search": {"space": space}})
    for _ in range(2):
        faithful = override(config, {"method.preset": "faithful"})
        # What was given stays, what the old preset had filled in does not.
        assert (faithful.method.alpha, faithful.method.epsilon) == (0.9, 0.01)
        back = override(faithful, {"method.preset": "recommended"})
        assert back.method == config.method
        both = override(config, {"method.preset": "faithful", "method.name": "pkd"}).method
        assert (both.alpha, both.preset) == (0.2, "faithful")
        # A run that is resumed reads its own resolved file.
        config = build_config(config.model_dump(mode="json", by_alias=True))
    (detail,) = space_faults({"method.preset": {"choice": ["faithful", "paper"]}})
    assert "may propose 'paper': method.preset: must be 'recommended' or 'faithful'" in detail


def test_alpha_may_be_learned_in_some_trials_and_fixed_in_others() -> None:
    space = {"method.alpha": {"choice": [0.2, "learned"]}}
    config = build_config({**BASE, "method": {"name": "pkd"}, "search": {"space": space}})
    assert override(config, {"method.alpha": "learned"}).method.alpha == "learned"
    (detail,) = space_faults({"method.alpha": {"choice": [0.2, "taught"]}})
    assert "may propose 'taught': method.alpha: must be a number or 'learned'" in detail


def test_conditions_in_a_circle_and_alternatives_out_of_reach() -> None:
    space = {
        "training.epochs": {"int": [1, 2], "when": {"training.patience": 1}},
        "training.patience": {"int": [1, 2], "when": {"training.epochs": 1}},
        "training.batch_size": [{"int": [32, 40]}, {"int": [40, 50], "when": {"method.name": "kl"}}],
        "method.selection": [
            {"choice": ["batch"], "when": {"method.name": ["kl", "pkd"]}},
            {"choice": ["sample"], "when": {"method.name": "pkd"}},
        ],
    }
    assert space_faults(space) == (
        "search.space: The conditions of search.space go round in a circle: "
        "training.epochs -> training.patience -> training.epochs.",
        "search.space.training.batch_size.1: is never used: an alternative above it holds whenever this one does",
        "search.space.method.selection.1: is never used: an alternative above it holds whenever this one does",
    )


def test_a_runs_record_is_a_space_too(tmp_path: Path) -> None:
    space = {"training.learning_rate": {"float": [1e-3, 1e-2], "log": True}}
    config = build_config(
        {
            "name": "first",
            "dataset": {"path": "mfeat", "prevalent": ["fou"]},
            "method": {"name": "kl", "preset": "faithful"},
            "search": {"space": space},
        }
    )
    record = {"name": "demo-2", "dataset_fingerprint": "0123", "config": config.model_dump(mode="json", by_alias=True)}
    path = tmp_path / "run.yaml"
    path.write_text("# A run of pkdray.\n" + yaml.safe_dump(record, sort_keys=False))
    assert load_config(path) == config
    changed = load_config(path, {"training.epochs": 7, "method.preset": "recommended"})
    assert (changed.training.epochs, changed.name) == (7, "first")
    assert changed.method.alpha == 0.7, "a new preset replaces what the old one had filled in"
    path.write_text(path.read_text().replace("patience: 20", "patience: never"))
    with pytest.raises(ConfigError) as told:
        load_config(path)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), start=1) if "patience: never" in text)
    assert f"(line {line})" in told.value.details[0]


def test_the_password_of_a_tracking_server_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "dataset: {path: mfeat, prevalent: [fou]}\n"
        "tracking: {mlflow: {uri: 'https://me:secret@host/x'}, wandb: {mode: on}, tensorbord: true}\n"
    )
    with pytest.raises(ConfigError) as told:
        load_config(path)
    assert len(told.value.details) == 3
    assert "MLFLOW_TRACKING_PASSWORD" in str(told.value)
    assert "did you mean 'tensorboard'?" in str(told.value)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("cpus_per_trial", "all", "must be a number or 'auto' (got 'all')"),
        ("gpus_per_trial", [1], "must be a number or 'auto' (got [1])"),
        ("readers", "many", "must be a number or 'auto' (got 'many')"),
        ("readers", -1, "must be greater than or equal to 0 (got -1)"),
        ("gpus_per_teacher_worker", -0.5, "must be greater than or equal to 0 (got -0.5)"),
    ],
)
def test_resources_are_numbers_or_auto_and_a_fault_is_told_once(field: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({**BASE, "resources": {field: value}})
    assert caught.value.details == (f"resources.{field}: {told}",)


def test_auto_is_kept_as_it_is_written() -> None:
    config = build_config({**BASE, "resources": {"gpus_per_trial": "auto", "cpus_per_trial": 2}})
    said = config.model_dump(mode="json")["resources"]
    assert (said["gpus_per_trial"], said["cpus_per_trial"], said["readers"]) == ("auto", 2, "auto")
    assert build_config(config.model_dump(mode="json", by_alias=True)) == config
