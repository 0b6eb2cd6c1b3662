"""What a YAML may say, section by section. Defaults are those of a feature-level study on two cores."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from pkdray.config.methods import DEFAULT_TOP_K, NUMBER, Method, PKDOTMethod
from pkdray.config.parameters import Parameter

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80)]
Width = Annotated[int, Field(ge=1, le=65536)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _distinct(names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {', '.join(twice)} twice")
    return names


Modalities = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]


TaskLoss: TypeAlias = Literal["cross_entropy", "ordinal", "ccc", "mse"]
TASK_LOSSES: dict[str, tuple[TaskLoss, ...]] = {
    "classification": ("cross_entropy", "ordinal"),
    "regression": ("ccc", "mse"),
}
"""What L_task may be in a task; the first is the default."""


class DatasetConfig(Section):
    """Which data, and which of its modalities the student will have.

    ``path`` is a bundled name or a folder. ``prevalent`` modalities exist at deployment; ``privileged`` ones only the
    teachers see (``null``: all the others). ``fold`` chooses one fold of a dataset that declares folds.
    """

    path: str
    prevalent: Modalities
    privileged: Annotated[list[str], AfterValidator(_distinct)] | None = None
    fold: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _disjoint(self) -> DatasetConfig:
        both = sorted(set(self.prevalent) & set(self.privileged or []))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be prevalent and privileged at once")
        return self


BACKBONES: dict[str, int] = {"vgg19_gru": 1024, "r3d18": 512, "r3d18_lstm": 512, "resnet18": 512}
"""The encoders with a pretrained network in them, and their width where `hidden` is left out."""
HEADLESS = ("r3d18", "resnet18")
"""Backbones whose own features are the encoder's."""

Fusion: TypeAlias = Literal["concat", "gated", "jca", "transformer", "jmt"]


class EncoderConfig(Section):
    """Maps one modality's samples to a feature vector of ``hidden[-1]`` numbers.

    ``mlp``: linear, ReLU and dropout a layer, frame by frame where the features are a sequence (then averaged over
    time). ``gru``: one recurrent layer a width; ``tcn``: one block of causal convolutions a width; both need features
    of shape [T, d]. ``vgg19_gru``: VGG19 on pictures [T, H, W, 3], a recurrent layer a width. ``r3d18``: R3D-18 on
    clips [F, H, W, 3] or [L, F, H, W, 3]; ``r3d18_lstm`` with a recurrent layer a width. ``resnet18``: ResNet-18 on a
    spectrogram [T, bins] or on pictures.

    The last four may start from ``weights``, a local file (nothing is downloaded), and ``freeze`` the network in it.
    ``learning_rate`` is this encoder's own, in place of the training's: pretrained networks are tuned by small steps.
    """

    kind: Literal["mlp", "gru", "tcn", "vgg19_gru", "r3d18", "r3d18_lstm", "resnet18"] = "mlp"
    hidden: list[Width] = Field(default=[64], min_length=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    weights: str | None = Field(default=None, min_length=1)
    weights_checksum: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    freeze: bool = False
    learning_rate: float | None = Field(default=None, gt=0, le=10)

    @model_validator(mode="before")
    @classmethod
    def _backbones_width(cls, data: Any) -> Any:
        """Where no widths are asked for, a backbone has its own."""
        if isinstance(data, dict) and "hidden" not in data and (width := BACKBONES.get(str(data.get("kind")))):
            return {**data, "hidden": [width]}
        return data

    @model_validator(mode="after")
    def _fits_the_kind(self) -> EncoderConfig:
        if self.kind in HEADLESS and self.hidden != [BACKBONES[self.kind]]:
            raise ValueError(
                f"hidden is {self.hidden}, but a {self.kind} gives its own {BACKBONES[self.kind]} features: leave "
                "hidden out"
            )
        given = [name for name in ("weights", "weights_checksum", "freeze") if getattr(self, name)]
        if given and self.kind not in BACKBONES:
            raise ValueError(
                f"{given[0]} is for a pretrained network, and kind {self.kind} has none: leave it out, or choose a "
                f"kind among {', '.join(BACKBONES)}"
            )
        if given and self.weights is None:
            raise ValueError(f"{given[0]} is set without weights: name their file, or leave {given[0]} out")
        return self


class TrainingConfig(Section):
    """How the one training loop runs; ``patience`` counts epochs without a better validation metric.

    ``micro_batch`` is how many samples of a batch go through the network at once (``null``: all of them). The loss is
    that of the whole batch all the same, since relations between samples are what is distilled: every part goes through
    twice, and the second time its gradients are added up. ``precision`` is that of the forward pass alone; weights and
    losses are float32.
    """

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=100, ge=2)
    micro_batch: int | None = Field(default=None, ge=1)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=0.0, ge=0)
    gradient_clip: float | None = Field(default=None, gt=0)
    patience: int = Field(default=20, ge=1)
    checkpoint_every: int = Field(default=10, ge=1)


class TeacherConfig(Section):
    """One teacher: its name and the modalities it sees (``null``: all of them)."""

    name: Name
    modalities: Modalities | None = None


class AdaptersConfig(Section):
    """MT-PKDOT's recycled teachers: one adapter and head per single modality, on the first teacher's frozen encoders.

    ``hidden`` are the adapter's inner widths (512-256-512 in the paper is ``[256]`` between widths of 512).
    """

    enabled: bool = True
    hidden: list[Width] = Field(default=[64], min_length=1)
    training: TrainingConfig = TrainingConfig()


class TeachersConfig(Section):
    """The teacher pool; all teachers share one ``embedding`` width, which the student takes over."""

    pool: list[TeacherConfig] = Field(default=[TeacherConfig(name="joint")], min_length=1)
    encoder: EncoderConfig = EncoderConfig()
    encoders: dict[str, EncoderConfig] = Field(default={}, description="per modality, in place of `encoder`")
    fusion: Fusion = "concat"
    embedding: Width = 64
    adapters: AdaptersConfig = AdaptersConfig()
    training: TrainingConfig = TrainingConfig()

    @field_validator("pool")
    @classmethod
    def _distinct_teachers(cls, pool: list[TeacherConfig]) -> list[TeacherConfig]:
        names = [teacher.name for teacher in pool]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two teachers are called {', '.join(twice)}")
        return pool


class TNetConfig(Section):
    """The T-Net, which hallucinates the first teacher's privileged features from the prevalent modalities.

    ``frozen``: regressed to the features first (``fit``), then kept, with encoders of its own; ``joint``: trained with
    the student and on the student's features, its regression loss added with ``weight``; ``none``: no T-Net.
    """

    training: Literal["none", "frozen", "joint"] = "frozen"
    hidden: list[Width] = Field(default=[256, 128, 256], min_length=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    weight: float = Field(default=1.0, gt=0)
    fit: TrainingConfig = TrainingConfig()


class StudentConfig(Section):
    """The student: prevalent encoders, a T-Net, and a fusion of both (``null``: of the teachers' kind)."""

    encoder: EncoderConfig = EncoderConfig()
    encoders: dict[str, EncoderConfig] = Field(default={}, description="per modality, in place of `encoder`")
    fusion: Fusion | None = None
    tnet: TNetConfig = TNetConfig()


class AshaConfig(Section):
    """Asynchronous successive halving over epochs: after ``grace_epochs``, then at every ``reduction_factor``-fold."""

    grace_epochs: int = Field(default=10, ge=1)
    reduction_factor: int = Field(default=3, ge=2)


SAMPLERS = ("tpe", "gp", "nsga2", "random", "grid")


class SearchConfig(Section):
    """The search: how many trials, what they are judged by on validation, who proposes, who stops early."""

    trials: int = Field(default=24, ge=1)
    metric: str | None = Field(default=None, description="null: accuracy, or ccc for regression")
    sampler: Literal["tpe", "gp", "nsga2", "random", "grid"] = "tpe"
    startup_trials: int = Field(
        default=10, ge=1, description="random trials before tpe or gp begin to model; nsga2: trials a generation"
    )
    asha: AshaConfig | None = AshaConfig()
    space: dict[str, list[Parameter]] = {}

    @field_validator("space", mode="before")
    @classmethod
    def _one_or_several(cls, space: object) -> object:
        if not isinstance(space, dict):
            return space
        return {path: value if isinstance(value, list) else [value] for path, value in space.items()}


AUTO: Final = "auto"


def _amount(value: object) -> str:
    return AUTO if value == AUTO else NUMBER


_Auto: TypeAlias = Annotated[Literal["auto"], Tag(AUTO)]
# Tagged unions, because plain ones would tell every fault twice.
_Cpus: TypeAlias = Annotated[Annotated[float, Field(gt=0), Tag(NUMBER)] | _Auto, Discriminator(_amount)]
_Gpus: TypeAlias = Annotated[Annotated[float, Field(ge=0), Tag(NUMBER)] | _Auto, Discriminator(_amount)]
_Readers: TypeAlias = Annotated[Annotated[int, Field(ge=0), Tag(NUMBER)] | _Auto, Discriminator(_amount)]


class ResourcesConfig(Section):
    """What a trial and a teacher may take; ``concurrent_trials: null`` means as many as the cluster holds.

    With ``workers_per_trial`` above 1 a student is trained by so many data-parallel workers, and CPUs and GPUs of a
    trial are those of each of them. ``readers`` are processes of each worker that read images from disk ahead.
    ``auto`` is decided when a step starts, by the cluster that it then runs on: `pkdray.resources.resolve`.
    """

    cpus_per_trial: _Cpus = AUTO
    gpus_per_trial: _Gpus = AUTO
    workers_per_trial: int = Field(default=1, ge=1)
    concurrent_trials: int | None = Field(default=None, ge=1)
    readers: _Readers = AUTO
    workers_per_teacher: int = Field(default=1, ge=1)
    gpus_per_teacher_worker: _Gpus = AUTO
    max_failures: int = Field(default=2, ge=0, description="restarts of a trial or teacher whose process or node died")


class MlflowConfig(Section):
    """Where MLflow keeps its runs; passwords and tokens come from its own environment variables, never from here."""

    uri: str = Field(min_length=1, description="a tracking server, or sqlite:///FILE")
    experiment: str = Field(default="pkdray", min_length=1)

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str) -> str:
        if urlsplit(uri).password is not None:
            raise ValueError(
                "holds a password, which would be copied into run.yaml: set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) instead"
            )
        return uri


class WandbConfig(Section):
    """Where Weights & Biases keeps its runs; the key comes from WANDB_API_KEY or `wandb login`, never from here."""

    project: str = Field(default="pkdray", min_length=1)
    entity: str | None = Field(default=None, min_length=1)
    mode: Literal["online", "offline"] = "online"


class TrackingConfig(Section):
    """Who else is told of epochs and ends of trials; nobody by default."""

    tensorboard: bool = False
    mlflow: MlflowConfig | None = None
    wandb: WandbConfig | None = None


class Config(Section):
    """One study, whole: everything that a run needs to be made again.

    ``task_loss`` is what teachers and students are trained with on the labels (``null``: cross_entropy for classes, ccc
    for numbers). ``ordinal`` is for classes in order: a neighbour is less wrong than a stranger.
    """

    name: Name
    seed: int = Field(default=0, ge=0, lt=2**31)
    dataset: DatasetConfig
    task_loss: TaskLoss | None = None
    teachers: TeachersConfig = TeachersConfig()
    student: StudentConfig = StudentConfig()
    method: Method = Field(default=PKDOTMethod(name="pkdot"), discriminator="name")
    training: TrainingConfig = TrainingConfig()
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _default_anchors(cls, data: Any) -> Any:
        """Where no top_k is asked for, take 30 anchors, or all that a smaller batch has."""
        if not isinstance(data, dict):
            return data
        method, training = data.get("method", {"name": "pkdot"}), data.get("training")
        batch_size = training.get("batch_size") if isinstance(training, dict) else None
        if not isinstance(method, dict) or not isinstance(batch_size, int) or not 2 <= batch_size <= DEFAULT_TOP_K:
            return data
        if method.get("name") not in ("pkdot", "mt-pkdot") or "top_k" in method:
            return data
        return {**data, "method": {**method, "top_k": batch_size - 1}}

    @model_validator(mode="after")
    def _anchors_fit_the_batch(self) -> Config:
        top_k = getattr(self.method, "top_k", None)
        if top_k is not None and top_k > self.training.batch_size - 1:
            raise ValueError(
                f"method.top_k is {top_k}, but a batch of {self.training.batch_size} has at most "
                f"{self.training.batch_size - 1} anchors a row: lower method.top_k or raise training.batch_size"
            )
        return self
