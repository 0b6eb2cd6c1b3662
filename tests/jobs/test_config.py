"""A job's YAML: what it may say, and that every fault is told at once, with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pkdray.config import load_config
from pkdray.errors import ConfigError
from pkdray.jobs import FIELDS, Job, build_job, load_job
from pkdray.shipped import JOBS, find_yaml, shipped

PIPELINE: dict[str, Any] = {
    "name": "whole",
    "step": "pipeline",
    "space": "mfeat_pkd",
    "run": "digits",
    "storage": "/shared/runs",
}


def faults(**fields: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as told:
        build_job({**PIPELINE, **fields})
    return told.value.details


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        "step: sweep\nspace: mfeat_pkd\nstorage: runs\nseeds: 3\ntrails: 4\nenv: {OMP_NUM_THREADS: 1, HF_TOKEN: abc}\n"
        "secrets: [WANDB_API_KEY=abc]\nresources: {cpus: 1}\n"
    )
    with pytest.raises(ConfigError, match=r"bad.yaml has 8 faults") as told:
        load_job(file)
    said = "\n".join(told.value.details)
    assert "storage (line 3): is the relative path 'runs', but a job runs in a temporary folder" in said
    assert "trails (line 5): unknown key; did you mean 'trials'?" in said
    assert "env.OMP_NUM_THREADS (line 6): must be text: quote it" in said
    assert "env.HF_TOKEN (line 6): looks like a secret" in said
    assert "secrets (line 7): entry 1 is no name of an environment variable" in said
    assert "abc" not in said, "what may be a value is not repeated"
    assert "resources.cpus (line 8): unknown key; known here: entrypoint_cpus," in said
    assert "run: is required by sweep" in said
    assert "seeds (line 4): means nothing to sweep; it belongs to evaluate, pipeline" in said


@pytest.mark.parametrize("step", FIELDS)
def test_a_step_takes_its_own_fields_and_no_others(step: str) -> None:
    values = {
        "space": "mfeat_pkd",
        "run": "digits",
        "set": {"training.epochs": 4},
        "trials": 5,
        "retry_failed": True,
        "seeds": 3,
        "folds": [0, 2],
        "top": 2,
        "against": ["kl"],
        "output": "/shared/student",
    }
    mine = {key: value for key, value in values.items() if key in FIELDS[step]}
    assert build_job({"name": "j", "step": step, "storage": "~/runs", **mine}).step == step
    for key in set(values) - set(mine):
        with pytest.raises(ConfigError, match=f"{key}: means nothing to {step}"):
            build_job({"name": "j", "step": step, "storage": "~/runs", **mine, key: values[key]})


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "RAY_AUTH_TOKEN", "DB_PASSWORD"])
def test_a_secret_with_its_value_is_refused_without_showing_it(name: str) -> None:
    (said,) = faults(env={name: "hush-hush"})
    assert f"env.{name}: looks like a secret" in said
    assert "hush-hush" not in said


def test_what_only_sounds_like_a_secret_is_a_plain_variable() -> None:
    env = {"TOKENIZERS_PARALLELISM": "false", "RAY_AUTH_TOKEN_PATH": "/run/token", "KEYBOARD": "de"}
    assert build_job({**PIPELINE, "env": env}).env == env


def test_a_name_is_no_secret_and_a_plain_variable_at_once() -> None:
    (said,) = faults(env={"PLACE": "x"}, secrets=["PLACE"])
    assert "env.PLACE: is among the `secrets` too" in said


@pytest.mark.parametrize("storage", ["s3://me:word@bucket/runs", "s3://bucket/runs?access_key=1&secret_key=2"])
def test_an_address_with_credentials_is_refused(storage: str) -> None:
    assert "holds credentials, which Ray would show" in faults(storage=storage)[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("env", {"TRACKER": "https://me:hush-hush@host/"}),
        ("set", {"dataset.path": "s3://me:hush-hush@bucket/data"}),
        ("set", {"tracking.mlflow": {"uri": "https://host/?token=hush-hush"}}),
    ],
)
def test_credentials_in_an_address_are_refused_wherever_ray_would_show_them(field: str, value: dict[str, Any]) -> None:
    (said,) = faults(**{field: value})
    assert said.startswith(f"{field}.{next(iter(value))}: holds credentials, which Ray shows and keeps")
    assert "hush-hush" not in said


@pytest.mark.parametrize("storage", ["s3://bucket/runs", "gs://b", "/nfs/runs", "~/runs", "file:///nfs/runs"])
def test_a_place_that_lasts_is_taken(storage: str) -> None:
    assert build_job({**PIPELINE, "storage": storage}).storage == storage


def test_folds_have_one_fault_and_not_one_a_member_of_the_union() -> None:
    assert faults(folds="some") == ("folds: must be all, a fold's number, or a list of them",)


def test_fields_are_replaced_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "step: pipeline\nspace: mfeat_pkd\nrun: a\nstorage: /x\nset: {training.epochs: 5}\nenv: {A: '1', B: '2'}\n"
    )
    job = load_job(
        file, ["storage=s3://b/runs", "trials=7", "set.training.learning_rate=1e-3", "env.B=two", "secrets=[HUSH]"]
    )
    assert (job.name, job.storage, job.trials, job.secrets) == ("mine", "s3://b/runs", 7, ["HUSH"])
    assert job.assignments == {"training.epochs": 5, "training.learning_rate": 1e-3}
    assert job.env == {"A": "1", "B": "two"}
    with pytest.raises(ConfigError) as told:
        load_job(file, ["trials=0", "set=3"])
    assert [detail.split(":")[0] for detail in told.value.details] == ["set (--set)", "trials (--set)"]


def test_a_file_that_is_no_mapping_is_answered_with_the_examples(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- teach\n")
    with pytest.raises(ConfigError, match=r"Start from one of the files in jobs/"):
        load_job(tmp_path / "list.yaml")


def test_there_is_a_ready_job_for_every_step() -> None:
    assert set(shipped(JOBS)) == set(FIELDS)


@pytest.mark.parametrize("name", shipped(JOBS))
def test_a_ready_job_is_whole_and_its_study_is_bundled(name: str) -> None:
    file = find_yaml(name, JOBS)
    job = load_job(file)
    assert (job.name, job.step) == (name, name)
    assert f"pkdray submit {name}" in file.read_text(encoding="utf-8"), "its header says how to run it"
    if job.space is not None:
        assert load_config(find_yaml(job.space), job.assignments).dataset.path == "mfeat"


def test_the_ready_jobs_work_on_each_others_runs() -> None:
    jobs: dict[str, Job] = {name: load_job(find_yaml(name, JOBS)) for name in shipped(JOBS)}
    assert len({job.storage for job in jobs.values()}) == 1
    assert len({jobs[name].run for name in ("sweep", "resume", "evaluate", "export")}) == 1
    assert jobs["pipeline"].run != jobs["sweep"].run


@pytest.mark.parametrize("name", shipped(JOBS))
def test_what_stands_in_a_ready_jobs_comments_may_be_uncommented(name: str, tmp_path: Path) -> None:
    lines = find_yaml(name, JOBS).read_text(encoding="utf-8").splitlines()
    fields = [
        line.removeprefix("# ") for line in lines if line.startswith("# ") and line[2:].split(":")[0] in _fields()
    ]
    (tmp_path / f"{name}.yaml").write_text("\n".join([*lines, *fields]))
    assert load_job(tmp_path / f"{name}.yaml").step == name


def _fields() -> set[str]:
    return {field.alias or name for name, field in Job.model_fields.items()}
