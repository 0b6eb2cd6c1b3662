"""The distillation methods by name, each with its own hyperparameters and the domain of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

CARRIED_OVER = ("teachers", "selection", "preset")
"""Fields that survive a change of method; every other hyperparameter belongs to its method alone."""

DEFAULT_TOP_K = 30
"""Anchors a row where none are asked for; in a batch that has fewer, all of them."""

LEARNED = "learned"
NUMBER = "number"
"""The union tags of a weight, which no path of a YAML contains."""


def _kind(value: object) -> str:
    return LEARNED if value == LEARNED else NUMBER


# A tagged union, because a plain one would tell every fault twice: once for the number and once for the word.
Share: TypeAlias = Annotated[
    Annotated[float, Field(ge=0, le=1), Tag(NUMBER)] | Annotated[Literal["learned"], Tag(LEARNED)],
    Discriminator(_kind),
]
"""How much of the loss is distillation, in [0, 1], the rest being L_task; or ``learned``."""

Weight: TypeAlias = Annotated[
    Annotated[float, Field(ge=0), Tag(NUMBER)] | Annotated[Literal["learned"], Tag(LEARNED)],
    Discriminator(_kind),
]
"""The weight of distillation beside L_task, at least 0; or ``learned``."""

Selection: TypeAlias = Literal["batch", "sample", "uniform", "confidence"]
Preset: TypeAlias = Literal["recommended", "faithful"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


class _Method(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SupervisedMethod(_Method):
    """The labels alone: L = L_task. The lower bound of every study."""

    name: Literal["supervised"]


class DistillingMethod(_Method):
    """What every distilling method has: the teachers it may learn from, how one is selected, and where it starts from.

    ``teachers: null`` is the first teacher of the pool (for mt-pkdot: the whole pool). ``selection`` takes, per
    ``batch`` or per ``sample``, the teacher with the lowest task loss; ``uniform`` averages them; ``confidence``
    averages them sample by sample with the weights softmax(-L).

    ``preset`` fills the fields that are not given: ``recommended`` with the defaults, ``faithful`` with the authors'
    own settings (a method's ``FAITHFUL``). A field that is given wins, also over ``faithful``. The preset is about the
    loss and nothing else, so these defects of the authors' code are NOT reproduced by it: folds by sample, the best
    epoch and learning rate chosen on the reported test fold, teachers trained on another split than the fold, attention
    across the batch, a random T-Net that is never saved, drop_last at evaluation, a fixed k that fails on small
    batches, a wrong EMG rate and an unnormalised linear spectrogram, and a teacher that is not in evaluation mode.

    ``alpha: learned`` leaves the weights to the training: one log-variance s a term is learned beside the student,
    L = sum_j exp(-s_j) L_j + s_j (Kendall, Gal and Cipolla, 2018), and alpha, or its share of 1, is used no more.
    """

    FAITHFUL: ClassVar[Mapping[str, Any]] = {}

    teachers: list[str] | None = Field(default=None, min_length=1)
    selection: Selection = "batch"
    preset: Preset = "recommended"

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("preset") != "faithful":
            return data
        return {**cls.FAITHFUL, **data}

    @classmethod
    def preset_values(cls, preset: Preset) -> dict[str, Any]:
        """The values of a preset, of the fields in which presets differ.

        Example:
            >>> PKDMethod.preset_values("faithful"), PKDMethod.preset_values("recommended")
            ({'alpha': 0.2, 'theta': None}, {'alpha': 0.7, 'theta': None})
        """
        if preset == "faithful":
            return dict(cls.FAITHFUL)
        return {name: cls.model_fields[name].get_default() for name in cls.FAITHFUL}


class PointMethod(DistillingMethod):
    """Each row to the teacher's row: L = alpha L_KD + (1 - alpha) L_task, or gated alpha keep L_KD + beta L_task.

    ``theta`` is the negative-transfer threshold on gamma, in [0, 2] for regression (1 - CCC of the teacher on the
    sequence) and [0, 1] for classification (1 - the teacher's probability of the label); ``null`` turns the gate off.
    """

    alpha: Share = 0.7
    theta: float | None = Field(default=None, ge=0, le=2)


class KLMethod(PointMethod):
    """Softened predictions: L_KD = T^2 KL(teacher || student) (Hinton et al., 2015). Needs classes."""

    # Hinton et al. (2015), Section 4: a relative weight of 0.5 on the hard targets; T = 2 was the best of 1, 2, 5, 10.
    FAITHFUL: ClassVar[Mapping[str, Any]] = {"alpha": 0.5, "temperature": 2.0}

    name: Literal["kl"]
    temperature: float = Field(default=2.0, gt=0, le=100)


class HintMethod(PointMethod):
    """Mean squared error of the embeddings (FitNets: Romero et al., 2015)."""

    # FitNets train the hint before the labels; for both at once the weight of Tian et al. (2020) is L_task + 100 L_KD,
    # of which this is the share.
    FAITHFUL: ClassVar[Mapping[str, Any]] = {"alpha": 100 / 101}

    name: Literal["hint"]


class PKDMethod(PointMethod):
    """Point-to-point cosine distance of the embeddings (PKD 2023, Eqs. 4 to 7)."""

    # PKD (2023), Eq. 4. The gate stays off: alpha = 0.2 is the paper's, but of theta it gives us no number to repeat.
    FAITHFUL: ClassVar[Mapping[str, Any]] = {"alpha": 0.2, "theta": None}

    name: Literal["pkd"]


class CRDMethod(PointMethod):
    """Contrast: each row against the other rows of the batch (after CRD: Tian et al., 2020, whose negatives came from
    a memory of the whole training set).
    """

    # Tian et al. (2020): L_task + 0.8 L_KD, of which alpha is the share, and the temperature of their code.
    FAITHFUL: ClassVar[Mapping[str, Any]] = {"alpha": 0.8 / 1.8, "temperature": 0.07}

    name: Literal["crd"]
    alpha: Share = 0.5
    temperature: float = Field(default=0.1, gt=0, le=100)


class SPMethod(DistillingMethod):
    """Similarity-preserving: L = L_task + alpha L_SP (Tung and Mori, 2019).

    L_SP is a mean over B^2 entries of rows of norm 1 and so at most 4 / B. On the bundled digits it starts at 0.0006 in
    batches of 100, which the authors' 3,000 brings near L_task. In another batch size, alpha goes with the size.
    """

    # Tung and Mori (2019), Section 4: gamma = 3,000.
    FAITHFUL: ClassVar[Mapping[str, Any]] = {"alpha": 3000.0}

    name: Literal["sp"]
    alpha: Weight = 3000.0


class RKDMethod(DistillingMethod):
    """Relational: L = L_task + distance_weight L_D + angle_weight L_A (Park et al., 2019).

    The angles of all triples of a batch are compared: memory and time grow with B^3, and frames count as rows. In
    batches of 100 an epoch takes some six times as long as with the cheap methods.
    """

    # Park et al. (2019), Section 4.2, classification.
    FAITHFUL: ClassVar[Mapping[str, Any]] = {"distance_weight": 25.0, "angle_weight": 50.0}

    name: Literal["rkd"]
    distance_weight: float = Field(default=25.0, ge=0)
    angle_weight: float = Field(default=50.0, ge=0)


class CCMethod(DistillingMethod):
    """Correlation congruence: L = L_task + alpha L_CC, a Gaussian kernel of width ``gamma`` expanded to ``order`` (Peng
    et al., 2019).

    On the bundled digits L_CC starts at 0.005, which the default alpha brings to a fifth of L_task; the weight in the
    literature is for a loss of another scale, and is next to nothing here.
    """

    # gamma and order are those of Peng et al. (2019), alpha that of the comparison of Tian et al. (2020).
    FAITHFUL: ClassVar[Mapping[str, Any]] = {"alpha": 0.02, "gamma": 0.4, "order": 2}

    name: Literal["cc"]
    alpha: Weight = 100.0
    gamma: float = Field(default=0.4, gt=0, le=10)
    order: int = Field(default=2, ge=1, le=10)


class _Transport(DistillingMethod):
    """What transport needs: ``epsilon`` (blur squared), ``top_k`` anchors a row and which of them."""

    epsilon: float = Field(default=0.1, ge=1e-4, le=100)
    top_k: int = Field(default=DEFAULT_TOP_K, ge=1)
    anchors: Literal["least_similar", "most_similar"] = "least_similar"


class PKDOTMethod(_Transport):
    """Structure by optimal transport: L = L_task + alpha L_OT, Sinkhorn divergence of anchored similarity rows."""

    # PKDOT (2024): lambda = 0.6; a blur of 0.1 in the authors' code, squared; their anchors.
    FAITHFUL: ClassVar[Mapping[str, Any]] = {"alpha": 0.6, "epsilon": 0.01, "anchors": "least_similar"}

    name: Literal["pkdot"]
    alpha: Weight = 0.6


class MTPKDOTMethod(_Transport):
    """Several teachers: L = task_weight L_task + alpha L_OT + centroid_weight L_centroid, teacher by selection.

    ``alpha: learned`` replaces all three weights.
    """

    # MT-PKDOT (2025): .8 and .2; the centroid term is commented out in the authors' code, which selects per batch.
    FAITHFUL: ClassVar[Mapping[str, Any]] = {
        "task_weight": 0.8,
        "alpha": 0.2,
        "centroid_weight": 0.0,
        "epsilon": 0.01,
        "anchors": "least_similar",
        "selection": "batch",
    }

    name: Literal["mt-pkdot"]
    task_weight: float = Field(default=0.8, gt=0)
    alpha: Weight = 0.2
    centroid_weight: float = Field(default=0.2, ge=0)


Method: TypeAlias = (
    SupervisedMethod
    | KLMethod
    | HintMethod
    | PKDMethod
    | SPMethod
    | RKDMethod
    | CCMethod
    | CRDMethod
    | PKDOTMethod
    | MTPKDOTMethod
)
METHODS: dict[str, type[_Method]] = {
    get_args(kind.model_fields["name"].annotation)[0]: kind for kind in get_args(Method)
}
