"""What comes with pkdray: ready search spaces that fit their data, and every package and file in the wheel."""

from __future__ import annotations

import fnmatch
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import ResNet18_Weights, VGG19_Weights
from torchvision.models.video import R3D_18_Weights

import pkdray
from pkdray.config import METHODS, load_config, override, parse_assignments
from pkdray.config.methods import DistillingMethod
from pkdray.data.dataset import open_dataset
from pkdray.data.importers.expected import expected_info
from pkdray.data.info import DatasetInfo, Modality
from pkdray.errors import ConfigError
from pkdray.losses.objective import hyperparameters
from pkdray.models.weights import no_pretrained_weights
from pkdray.shipped import find_yaml, shipped
from pkdray.training.inputs import input_name, inputs_of
from pkdray.training.plan import make_plan, plan_without_data
from pkdray.training.students import fresh_student, student_step
from pkdray.training.teachers import build_teacher

PACKAGE = Path(pkdray.__file__).parent
ROOT = PACKAGE.parent
PYPROJECT = ROOT / "pyproject.toml"


def test_there_are_ready_search_spaces_for_every_method() -> None:
    assert {"mfeat_demo", "mfeat_pkd", "mfeat_pkdot", "mfeat_mtpkdot"} <= shipped().keys()
    assert shipped("no such kind") == {}


# As docs/datasets.md says that the importers make them, and the same with pictures that are quick to go through.
SETS: dict[str, dict[str, Any]] = {
    "biovid": {"task": "classification", "classes": ("BL1", "PA4")},
    "affwild2": {"task": "regression", "targets": ("valence", "arousal"), "target_frames": 16},
    "recola": {"task": "regression", "targets": ("valence", "arousal"), "target_frames": 25},
}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "biovid": {"face": (75, 112, 112, 3), "emg": (127, 65), "ecg": (127, 65), "gsr": (127, 65)},
    "affwild2": {"face": (16, 8, 112, 112, 3), "voice": (16, 107, 64, 1)},
    "recola": {"face": (25, 112, 112, 3), "voice": (100, 64, 1), "ecg": (25, 10), "eda": (25, 10)},
}
TINY: dict[str, dict[str, tuple[int, ...]]] = {
    "biovid": {"face": (9, 32, 33, 3), "emg": (33, 17)},
    "affwild2": {"face": (3, 8, 16, 17, 3), "voice": (3, 33, 17, 1)},
    "recola": {"face": (3, 32, 33, 3), "voice": (33, 17, 1)},
}
RECORDED = [name for name in shipped() if name.partition("_")[0] in SETS]
BASES = [name for name in RECORDED if not name.endswith("_faithful")]


def recorded(name: str, shapes: dict[str, dict[str, tuple[int, ...]]]) -> DatasetInfo:
    """What an import makes, with modalities of the given shapes."""
    source = name.partition("_")[0]
    about = SETS[source]
    frames = about.get("target_frames") and shapes[source]["face"][0]
    modalities = {
        # Windows of clips have more dimensions than a dataset of this version can hold: unchecked.
        key: Modality.model_construct(kind="images" if key == "face" else "features", shape=shape, rate=None)
        for key, shape in shapes[source].items()
    }
    info = DatasetInfo(name=source, **{**about, "target_frames": frames})
    return info.model_copy(update={"modalities": modalities})


@pytest.mark.parametrize("name", shipped())
def test_a_ready_search_space_fits_its_dataset(name: str) -> None:
    config = load_config(find_yaml(name))
    assert config.name == name
    if name in RECORDED:
        assert config.dataset.path == f"data/{name.partition('_')[0]}"
        plan = plan_without_data(config, recorded(name, SHAPES))
        assert plan_without_data(config, expected_info(plan.info.name)).config == plan.config
    else:
        plan = make_plan(config, open_dataset(config.dataset.path))
    assert plan.config.search.space
    text = find_yaml(name).read_text(encoding="utf-8")
    assert f"pkdray sweep {name}" in text, "its header says how to run it"


DOCS = ROOT / "docs" / "datasets.md"


@pytest.mark.skipif(not DOCS.exists(), reason="an installed package has no docs")
@pytest.mark.parametrize("name", RECORDED)
def test_the_page_about_the_sets_says_how_to_do_without_gpus_and_weights(name: str) -> None:
    text = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(rf"\n    pkdray sweep {name.partition('_')[0]}_\w+ (--trials 1 .*)\n", text)
    words = shlex.split(line)[2:]
    assert set(words[::2]) == {"--set"}
    config = load_config(find_yaml(name), parse_assignments(words[1::2]))
    plan = plan_without_data(config, recorded(name, SHAPES)).config
    encoders = [*plan.teachers.encoders.values(), *plan.student.encoders.values()]
    assert len(encoders) == 3
    assert all(encoder.weights is None for encoder in encoders)
    trainings = [plan.teachers.training, plan.training]
    if plan.teachers.adapters.enabled:
        trainings.append(plan.teachers.adapters.training)
    if plan.student.tnet.training != "none":
        trainings.append(plan.student.tnet.fit)
    assert [(one.precision, one.epochs) for one in trainings] == [("float32", 1)] * len(trainings)
    resources = plan.resources
    assert (resources.gpus_per_trial, resources.gpus_per_teacher_worker, resources.readers) == (0, 0, 0)
    assert resources.cpus_per_trial == resources.workers_per_trial == resources.workers_per_teacher == 1


@pytest.mark.parametrize("name", BASES)
def test_a_faithful_twin_differs_in_its_loss_and_search_alone(name: str) -> None:
    base, twin = (load_config(find_yaml(each)).model_dump(mode="json") for each in (name, f"{name}_faithful"))
    assert twin["method"]["preset"] == "faithful"
    method = METHODS[base["method"]["name"]]
    assert issubclass(method, DistillingMethod)
    faithful = method.preset_values("faithful")
    assert {key: twin["method"][key] for key in faithful} == faithful
    searched = {path.removeprefix("method.") for path in twin["search"]["space"]}
    assert not searched & (set(faithful) - {"theta"}), "what is the authors' is not searched"
    for each in (base, twin):
        for key in ("name", "method"):
            del each[key]
        for key in ("space", "trials", "startup_trials"):
            del each["search"][key]
    assert twin == base


@pytest.mark.parametrize("source", SETS)
def test_the_spaces_of_a_set_share_their_teachers(source: str) -> None:
    names = [name for name in RECORDED if name.startswith(source)]
    plans = [plan_without_data(load_config(find_yaml(name)), recorded(name, SHAPES)) for name in names]
    assert len(names) >= 2
    assert len({plan.pool_fingerprint for plan in plans}) == 1


@pytest.mark.parametrize("name", RECORDED)
def test_pretrained_networks_are_torchvisions_files(name: str) -> None:
    config = load_config(find_yaml(name))
    files = {"vgg19_gru": VGG19_Weights.IMAGENET1K_V1, "r3d18": R3D_18_Weights.KINETICS400_V1}
    known = {kind: weights.url for kind, weights in {**files, "resnet18": ResNet18_Weights.IMAGENET1K_V1}.items()}
    encoders = [*config.teachers.encoders.values(), *config.student.encoders.values()]
    assert any(encoder.weights for encoder in encoders)
    for encoder in encoders:
        if encoder.weights:
            assert encoder.weights == f"weights/{known[encoder.kind].rpartition('/')[2]}"


@pytest.mark.parametrize("name", BASES)
def test_a_ready_space_trains(name: str) -> None:
    """One step of teacher and student on tiny pictures, every loss of the space's method in it."""
    rows, anchors = 4, {"method.top_k": 2, "training.batch_size": 4}
    overrides = anchors if "ot" in name.partition("_")[2] else {}
    config = override(load_config(find_yaml(name)), {"search.space": {}, **overrides})
    plan = plan_without_data(config, recorded(name, TINY))
    torch.manual_seed(5)
    batch: dict[str, torch.Tensor] = {}
    for key, modality in plan.info.modalities.items():
        pictures = modality.kind == "images"
        batch[input_name(key)] = (
            torch.randint(0, 256, (rows, *modality.shape), dtype=torch.uint8)
            if pictures
            else torch.randn(rows, *modality.shape)
        )
    steps = (plan.info.target_frames,) if plan.info.target_frames else ()
    classified = plan.info.task == "classification"
    batch["target"] = torch.tensor([0, 1, 0, 1]) if classified else torch.rand(rows, *steps, plan.task.outputs)
    with no_pretrained_weights():
        teacher = build_teacher(plan, plan.pool[plan.first_teacher])
        student = fresh_student(plan, plan.config)
    with torch.no_grad():
        said = teacher.eval()(inputs_of(batch, plan.pool[plan.first_teacher].modalities))
        assert said.prediction.shape == (rows, *steps, plan.task.outputs)
    width = plan.config.teachers.embedding
    for who in plan.teachers_of(plan.config):
        batch[f"{who}.embedding"] = torch.randn(rows, *steps, width)
        batch[f"{who}.prediction"] = torch.randn(rows, *steps, plan.task.outputs)
        batch[f"{who}.loss"] = torch.rand(rows, *steps)
        batch[f"{who}.gamma"] = torch.rand(rows, *steps)
    step = student_step(plan, plan.config)
    loss, parts = step(student.train(), batch, hyperparameters(plan.config.method, "cpu"))
    loss.backward()
    assert torch.isfinite(loss)
    assert {"task"} < {part for part in parts if "/" not in part}
    gradients = [value.grad for value in student.parameters() if value.requires_grad]
    assert all(value is not None and value.isfinite().all() for value in gradients)
    face = student.encoders["face"]
    assert any(value.grad is not None and value.grad.any() for value in face.parameters())


def test_no_yaml_beside_the_ready_ones_goes_untested() -> None:
    files = {path.stem for path in (ROOT / "search_spaces").rglob("*.y*ml")}
    assert files == set(shipped())


def test_a_yaml_is_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_yaml("mfeat_demo") == find_yaml("mfeat_demo.yaml") == shipped()["mfeat_demo"]
    own = tmp_path / "mfeat_demo"
    own.write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert find_yaml("mfeat_demo") == Path("mfeat_demo"), "a user's own file comes first"
    assert find_yaml(str(own)) == own


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no_such_space") as caught:
        find_yaml("no_such_space")
    assert "mfeat_demo" in str(caught.value)


@pytest.mark.skipif(not PYPROJECT.exists(), reason="an installed package has no pyproject.toml")
def test_every_package_of_the_tree_is_in_the_wheel() -> None:
    said = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["setuptools"]
    tree = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("*.py")}
    assert set(said["packages"]) == tree | {"pkdray.jobs.ready", "pkdray.search_spaces"}
    patterns = said["package-data"]["pkdray"]
    others = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert others
    for name in others:
        assert any(fnmatch.fnmatch(name, pattern.replace("**/", "")) for pattern in patterns), f"{name} is left out"
