"""A config met with its dataset: every default filled in, every name checked, all faults at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pkdray import mirrors
from pkdray.config import (
    TASK_LOSSES,
    Config,
    Parameter,
    StudentConfig,
    SupervisedMethod,
    TaskLoss,
    TeachersConfig,
    override,
)
from pkdray.data.dataset import Dataset, DatasetInfo
from pkdray.errors import ConfigError
from pkdray.files import fingerprint
from pkdray.models.networks import TaskShape
from pkdray.models.shapes import fitting_kinds, shape_fault
from pkdray.resources import Resources, resolve
from pkdray.training.metrics import METRICS, Metric
from pkdray.training.pretrained import WeightsFile, identified, identify_weights, weights_overrides

POOL_FORMAT = 1
"""Raise when the meaning of a pool's files changes: pools of another format are then trained anew."""


@dataclass(frozen=True)
class Member:
    """A teacher of the pool: trained on ``modalities``, or an adapter on the frozen encoder of one of them."""

    name: str
    modalities: tuple[str, ...]
    adapter_of: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a study does, resolved: no null stands for a default any more. Small and picklable; holds no data."""

    config: Config
    info: DatasetInfo
    dataset_path: str
    dataset_fingerprint: str
    pool: dict[str, Member]
    metric: Metric
    resources: Resources
    """Those of the config; what it leaves to ``auto`` is as on a machine without a GPU until a step knows its cluster
    (`steps.studies.placed`)."""
    weights: dict[str, WeightsFile] = field(default_factory=dict)
    """The files of weights that the search chooses among, as its space names them."""

    @property
    def task(self) -> TaskShape:
        """What a prediction is in this study."""
        outputs = len(self.info.classes) if self.info.task == "classification" else len(self.info.targets)
        return TaskShape(outputs, self.info.target_frames is not None)

    @property
    def task_loss(self) -> TaskLoss:
        """What teachers and students are trained with on the labels."""
        return self.config.task_loss or TASK_LOSSES[self.info.task][0]

    def shapes(self, modalities: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The shape of a sample, [d] or [T, d], of each modality."""
        return {name: tuple(self.info.modalities[name].shape) for name in modalities}

    @property
    def prevalent(self) -> list[str]:
        """The modalities that the student has."""
        return self.config.dataset.prevalent

    @property
    def privileged(self) -> list[str]:
        """The modalities that only teachers see."""
        return self.config.dataset.privileged or []

    @property
    def taught(self) -> list[str]:
        """The modalities that some teacher sees."""
        seen = {name for member in self.pool.values() for name in member.modalities}
        return [name for name in self.info.modalities if name in seen]

    @property
    def first_teacher(self) -> str:
        """The teacher that the T-Net and the adapters learn from, and the default of every distilling method."""
        return self.config.teachers.pool[0].name

    @property
    def pool_fingerprint(self) -> str:
        """Changes with everything that the frozen teachers and their embeddings depend on, and with nothing else."""
        return fingerprint(
            {
                "format": POOL_FORMAT,
                "dataset": self.dataset_fingerprint,
                "fold": self.config.dataset.fold,
                "prevalent": self.prevalent,
                "privileged": self.privileged,
                "seed": self.config.seed,
                "teachers": identified(self.config.teachers.model_dump(mode="json")),
                "metric": self.metric.name,
                "task_loss": self.task_loss,
            }
        )

    def teachers_of(self, config: Config) -> list[str]:
        """The teachers that a trial's method listens to."""
        if isinstance(config.method, SupervisedMethod):
            return []
        if config.method.teachers is not None:
            return list(config.method.teachers)
        return list(self.pool) if config.method.name == "mt-pkdot" else [self.first_teacher]

    def trial_config(self, overrides: dict[str, Any]) -> Config:
        """The config of a trial: the study's, with what the search proposes."""
        bare = self.config.model_copy(update={"search": self.config.search.model_copy(update={"space": {}})})
        return override(bare, weights_overrides(overrides, self.weights), source="the trial's configuration")


def make_plan(config: Config, dataset: Dataset) -> Plan:
    """Resolve a config against its dataset.

    Raises:
        ConfigError: unknown modality, teacher, metric or fold, a domain that the task does not have, a file of weights
            that is missing or another one; all at once.
    """
    # Absolute: the workers that open it may run in another folder.
    path = mirrors.uri_of(dataset.path) or str(dataset.path.resolve())
    faults = _gate_faults(config, dataset)
    fold = config.dataset.fold
    if fold is not None and fold >= dataset.folds:
        declared = f"folds 0 to {dataset.folds - 1}" if dataset.folds else "no folds"
        faults.append(f"dataset.fold: is {fold}, but {dataset.info.name} declares {declared}")
    config, weights, weights_faults = identify_weights(config)
    return _resolved(config, dataset.info, path, dataset.fingerprint, faults + weights_faults, weights)


def plan_without_data(config: Config, info: DatasetInfo) -> Plan:
    """Resolve a config against what is known of a dataset that is not there: enough to build networks.

    Raises:
        ConfigError: as `make_plan`, but for what depends on the samples (folds, and sequences for the gate).
    """
    return _resolved(config, info, config.dataset.path, "", [], {})


def _resolved(
    config: Config,
    info: DatasetInfo,
    path: str,
    dataset_fingerprint: str,
    of_files: list[str],
    weights: dict[str, WeightsFile],
) -> Plan:
    modalities = list(info.modalities)
    named = [*config.dataset.prevalent, *(config.dataset.privileged or [])]
    faults = [
        f"dataset: there is no modality '{name}' in {info.name}; it has {', '.join(modalities)}"
        for name in named
        if name not in info.modalities
    ]
    privileged = config.dataset.privileged
    if privileged is None:
        privileged = [name for name in modalities if name not in config.dataset.prevalent]
    if not privileged:
        faults.append("dataset.privileged: nothing is left that only a teacher sees; make a modality less prevalent")
    available = [name for name in modalities if name in config.dataset.prevalent or name in privileged]
    teachers, pool, pool_faults = _resolve_pool(config.teachers, available)
    metric, metric_faults = _resolve_metric(config.search.metric, info.task)
    faults += pool_faults + metric_faults
    faults += _frame_faults(config, info, available)
    seen = [name for name in available if any(name in member.modalities for member in pool.values())]
    faults += _encoder_faults("teachers", config.teachers, info, available, seen, {})
    prevalent = config.dataset.prevalent
    faults += _encoder_faults("student", config.student, info, prevalent, prevalent, config.search.space)
    faults += _task_loss_faults(config, info.task)
    faults += _method_faults(config, pool, info.task)
    faults += of_files
    if faults:
        raise ConfigError(
            f"{config.name} does not fit the dataset {info.name}:",
            details=faults,
            cure=f"`pkdray data inspect {config.dataset.path}` shows what is in it.",
        )
    resolved = config.model_copy(
        update={
            "dataset": config.dataset.model_copy(update={"privileged": privileged}),
            "teachers": teachers,
            "student": config.student.model_copy(update={"fusion": config.student.fusion or config.teachers.fusion}),
            "search": config.search.model_copy(update={"metric": metric.name}),
            "task_loss": config.task_loss or TASK_LOSSES[info.task][0],
        }
    )
    return Plan(resolved, info, path, dataset_fingerprint, pool, metric, resolve(config.resources), weights)


def _resolve_pool(config: TeachersConfig, available: list[str]) -> tuple[TeachersConfig, dict[str, Member], list[str]]:
    faults: list[str] = []
    pool: dict[str, Member] = {}
    for index, teacher in enumerate(config.pool):
        unknown = [name for name in teacher.modalities or [] if name not in available]
        if unknown:
            faults.append(
                f"teachers.pool.{index}.modalities: {', '.join(unknown)} is neither prevalent nor privileged; "
                f"choose from {', '.join(available)}"
            )
        if teacher.name in ("embeddings", "tnets", "pool.yaml", f"{config.pool[0].name}.adapters"):
            faults.append(
                f"teachers.pool.{index}.name: '{teacher.name}' is the name of another file or folder of a pool; "
                "rename the teacher"
            )
        pool[teacher.name] = Member(teacher.name, tuple(teacher.modalities or available))
    first = pool[config.pool[0].name]
    if config.adapters.enabled:
        for modality in first.modalities:
            if modality in pool:
                faults.append(
                    f"teachers.pool: a teacher is called '{modality}' like the adapter of that modality; rename it, or "
                    "set teachers.adapters.enabled to false"
                )
            pool.setdefault(modality, Member(modality, (modality,), adapter_of=first.name))
    teachers = [
        teacher.model_copy(update={"modalities": list(pool[teacher.name].modalities)}) for teacher in config.pool
    ]
    return config.model_copy(update={"pool": teachers}), pool, faults


def _resolve_metric(name: str | None, task: str) -> tuple[Metric, list[str]]:
    name = name or ("accuracy" if task == "classification" else "ccc")
    fitting = [metric for metric in METRICS.values() if metric.task == task]
    for metric in fitting:
        if metric.name == name:
            return metric, []
    known = ", ".join(metric.name for metric in fitting)
    return fitting[0], [f"search.metric: there is no metric '{name}' for {task}; choose from {known}"]


def _frame_faults(config: Config, info: DatasetInfo, available: list[str]) -> list[str]:
    """Who sees no frames cannot answer per frame."""
    if info.target_frames is None:
        return []
    framed = [name for name, modality in info.modalities.items() if modality.frames is not None]
    cure = f"add one of {', '.join(framed)}" if framed else "import the dataset with one that has"
    seen = {"dataset.prevalent": config.dataset.prevalent}
    for index, teacher in enumerate(config.teachers.pool):
        seen[f"teachers.pool.{index}.modalities"] = teacher.modalities or available
    return [
        f"{where}: the targets are per frame, but {' and '.join(names)} has no frames; {cure}"
        for where, names in seen.items()
        if all(name in info.modalities for name in names) and not set(names) & set(framed)
    ]


def _encoder_faults(
    section: str,
    config: TeachersConfig | StudentConfig,
    info: DatasetInfo,
    available: list[str],
    seen: list[str],
    space: Mapping[str, list[Parameter]],
) -> list[str]:
    """Encoders of nothing, and kinds, searched ones too, that cannot take what the modalities look like."""
    faults = [
        f"{section}.encoders: {name} is not among {', '.join(available)}"
        for name in config.encoders
        if name not in available
    ]
    for name in seen:
        if name not in info.modalities:
            continue
        shape = info.modalities[name].shape
        own = f"{section}.encoders.{name}.kind"
        where = own if name in config.encoders else f"{section}.encoder.kind"
        # The fixed kind counts beside the searched ones: the lower bound is trained with it.
        places = {config.encoders.get(name, config.encoder).kind: where}
        for path in dict.fromkeys((where, own)):
            for kind in _choices(space.get(path, [])):
                places.setdefault(kind, f"search.space.{path}")
        cure = f"set {own} to {' or '.join(fitting_kinds(shape))}"
        for kind, place in places.items():
            fault = shape_fault(kind, shape)
            if fault is not None:
                faults.append(f"{place}: {fault}, as {name} is; {cure}")
    return faults


def _task_loss_faults(config: Config, task: str) -> list[str]:
    name, fitting = config.task_loss, TASK_LOSSES[task]
    if name is None or name in fitting:
        return []
    needs = "classes, which a regression has not" if task == "regression" else "numbers, which classes are not"
    return [f"task_loss: {name} compares {needs}; use {' or '.join(fitting)}"]


def _method_faults(config: Config, pool: dict[str, Member], task: str) -> list[str]:
    faults: list[str] = []
    searched = config.search.space

    def check_teachers(where: str, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in pool]
        if unknown:
            faults.append(f"{where}: no teacher is called {', '.join(unknown)}; the pool has {', '.join(pool)}")

    if not isinstance(config.method, SupervisedMethod):
        check_teachers("method.teachers", config.method.teachers or [])
    for parameter in searched.get("method.teachers", []):
        choices = parameter.subset or [name for choice in parameter.choice or [] for name in choice or []]
        check_teachers("search.space.method.teachers", choices)
    methods = {config.method.name, *_choices(searched.get("method.name", []))}
    if task == "regression" and "kl" in methods:
        faults.append("method.name: kl compares class probabilities, which a regression has not; use pkd or pkdot")
    if task == "classification":
        for value in _thetas(config):
            if value is not None and value > 1:
                faults.append(f"method.theta: {value} is outside [0, 1], the domain of theta for classification")
    return faults


def _thetas(config: Config) -> list[float | None]:
    """Every end of what theta may be in a trial; no preset sets one."""
    thetas = [getattr(config.method, "theta", None)]
    thetas += [value for parameter in config.search.space.get("method.theta", []) for value in parameter.extremes()]
    return thetas


def _gate_faults(config: Config, dataset: Dataset) -> list[str]:
    """For regression the gate judges a teacher by its CCC on a sequence, which takes several rows."""
    if dataset.info.task != "regression" or all(theta is None for theta in _thetas(config)):
        return []
    if dataset.info.target_frames is not None or len(set(dataset.sequences().tolist())) < len(dataset):
        return []
    return [
        "method.theta: the gate needs the teacher's CCC on each sequence, but every sequence of "
        f"{dataset.info.name} is one sample; give a sequence_id at the import, or leave theta null"
    ]


def _choices(parameters: list[Parameter]) -> list[Any]:
    return [value for parameter in parameters for value in parameter.choice or []]
