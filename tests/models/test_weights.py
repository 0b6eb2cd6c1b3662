"""Pretrained weights: read safely, checked, adapted, and every fault told with its cure."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from pkdray.config import EncoderConfig
from pkdray.errors import CheckpointError, PkdrayError
from pkdray.files import checksum
from pkdray.models.backbones import build_encoder
from pkdray.models.weights import load_pretrained, no_pretrained_weights, read_weights

SHAPE = (2, 21, 19, 3)


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    """A ResNet-18 of torchvision, classifier included; its BatchNorms are those of a network that was trained."""
    torch.manual_seed(3)
    state = torchvision.models.resnet18().state_dict()
    return {name: value + 0.1 if "running" in name else value for name, value in state.items()}


@pytest.fixture(scope="module")
def file(whole, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(whole, path)
    return path


def resnet(path: Path | str | None, shape=SHAPE, **given):
    config = EncoderConfig(kind="resnet18", weights=None if path is None else str(path), **given)
    return build_encoder(config, shape, per_frame=False)


def same(network, whole) -> bool:
    state = network.backbone.network.state_dict()
    return all(torch.equal(value, whole[name]) for name, value in state.items())


def test_weights_are_loaded_and_may_train(file, whole):
    network = resnet(file, weights_checksum=checksum(file))
    assert same(network, whole)
    assert all(value.requires_grad for value in network.parameters())


def test_frozen_weights_do_not_move(file, whole):
    network = resnet(file, freeze=True).train()
    assert not any(value.requires_grad for value in network.parameters())
    network(torch.randint(0, 256, (3, *SHAPE), dtype=torch.uint8))
    assert same(network, whole)


def test_a_frozen_backbone_leaves_its_head_free(tmp_path):
    with torch.device("meta"):
        names = torchvision.models.vgg19(init_weights=False).state_dict()
    state = {name: torch.zeros(value.shape) for name, value in names.items() if name.startswith("features")}
    save_file({**state, "classifier.0.bias": torch.zeros(4096)}, tmp_path / "vgg19.safetensors")
    config = EncoderConfig(kind="vgg19_gru", hidden=[5], weights=str(tmp_path / "vgg19.safetensors"), freeze=True)
    network = build_encoder(config, (2, 33, 35, 3), per_frame=False).train()
    network(torch.zeros(2, 2, 33, 35, 3, dtype=torch.uint8)).sum().backward()
    trained = {name for name, value in network.named_parameters() if value.grad is not None}
    assert trained == {name for name, value in network.named_parameters() if value.requires_grad}
    assert trained == {f"head.{name}" for name, _ in network.head.named_parameters()}


def test_one_channel_takes_the_sum_of_three(file, whole):
    network = resnet(file, shape=(33, 29))
    found = network.backbone.network.conv1.weight
    torch.testing.assert_close(found.detach(), whole["conv1.weight"].sum(dim=1, keepdim=True))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state, "optimizer": {}},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
    ],
    ids=["plain", "state_dict", "model", "data parallel", "old"],
)
def test_what_training_scripts_save_is_read(wrap, whole, tmp_path):
    torch.save(wrap(whole), tmp_path / "resnet18.pth")
    assert same(resnet(tmp_path / "resnet18.pth"), whole)


def test_the_old_format_of_torch_is_read(whole, tmp_path):
    torch.save(whole, tmp_path / "resnet18.pth", _use_new_zipfile_serialization=False)
    assert same(resnet(tmp_path / "resnet18.pth"), whole)


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["pickle", "torch", "wrapped"])
def test_a_pickle_with_code_is_refused_and_not_run(how, tmp_path):
    path, marker = tmp_path / "resnet18.pth", tmp_path / "run"
    trap = Trap(marker)
    if how == "pickle":
        path.write_bytes(pickle.dumps({"conv1.weight": trap}))
    else:
        torch.save({"conv1.weight": trap} if how == "torch" else {"state_dict": {}, "optimizer": trap}, path)
    with pytest.raises(CheckpointError, match="holds more than tensors") as told:
        resnet(path)
    assert "save its state_dict() as .safetensors" in told.value.cure
    assert not marker.exists()


def test_a_missing_file_is_told_and_nothing_is_downloaded(tmp_path):
    with pytest.raises(CheckpointError, match=r"no file of weights .*nowhere\.pth") as told:
        resnet(tmp_path / "nowhere.pth")
    assert "downloads nothing" in told.value.cure
    with pytest.raises(CheckpointError, match="no file of weights"):
        resnet(tmp_path)


def test_another_checksum_is_told(file):
    with pytest.raises(CheckpointError, match=f"has the checksum {checksum(file)}, not sha256:0"):
        resnet(file, weights_checksum="sha256:" + "0" * 64)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x02}q\x00.", b"PK\x03\x04 broken"])
def test_damaged_files_are_told(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.(pth|safetensors) (is truncated|holds)"):
        read_weights(tmp_path / name)


def test_truncated_files_are_told(whole, file, tmp_path):
    torch.save(whole, tmp_path / "whole.pth")
    for source, name in ((file, "a.safetensors"), (tmp_path / "whole.pth", "a.pth")):
        (tmp_path / name).write_bytes(source.read_bytes()[:1_000_000])
        with pytest.raises(CheckpointError, match="is truncated"):
            read_weights(tmp_path / name)


def test_another_archive_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="is truncated or holds no weights"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "no state dict but a Tensor"),
        ({}, "no state dict but a dict"),
        ({"epoch": 3, "weights": torch.zeros(3)}, "epoch is no tensor"),
        ({3: torch.zeros(3)}, "3 is no tensor"),
    ],
)
def test_what_is_no_state_dict_is_told(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "a.pth")


def test_missing_unknown_and_misshapen_tensors_are_all_told_at_once(whole, tmp_path):
    state = {**whole, "conv2.weight": torch.zeros(3), "layer4.0.bn1.bias": torch.zeros(7)}
    for name in ("bn1.weight", "bn1.bias", "layer1.0.bn1.weight", "layer1.0.bn1.bias"):
        del state[name]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors holds no weights of a resnet18") as told:
        resnet(tmp_path / "a.safetensors")
    assert told.value.details == (
        "4 tensors are missing: bn1.weight, bn1.bias, layer1.0.bn1.weight and 1 more",
        "1 tensors are unknown: conv2.weight",
        "1 tensors have another shape: layer4.0.bn1.bias has shape [7], not [512]",
    )


def test_weights_of_another_network_are_told(file):
    with pytest.raises(CheckpointError, match="holds no weights of a vgg19"):
        build_encoder(EncoderConfig(kind="vgg19_gru", weights=str(file)), (1, 32, 32, 3), per_frame=False)


def test_a_finished_network_does_not_need_the_file_it_started_from(tmp_path):
    with no_pretrained_weights():
        network = resnet(tmp_path / "nowhere.pth", freeze=True)
    assert not any(value.requires_grad for value in network.parameters())
    with pytest.raises(CheckpointError):
        resnet(tmp_path / "nowhere.pth")


def test_without_a_file_the_weights_stay_as_they_are():
    network = torch.nn.Linear(2, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_pretrained(network, None, name="linear")
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "mlp", "weights": "a.pth"}, "weights is for a pretrained network, and kind mlp has none"),
        ({"kind": "gru", "freeze": True}, "freeze is for a pretrained network"),
        ({"kind": "resnet18", "freeze": True}, "freeze is set without weights"),
        ({"kind": "r3d18", "weights_checksum": "sha256:" + "0" * 64}, "weights_checksum is set without weights"),
        ({"kind": "r3d18", "weights": "a", "weights_checksum": "md5:0"}, "pattern"),
        ({"kind": "r3d18", "weights": ""}, "at least 1 character"),
        ({"kind": "resnet18", "hidden": [64]}, r"hidden is \[64\], but a resnet18 gives its own 512 features"),
        ({"kind": "lstm"}, "'mlp', 'gru', 'tcn'"),
    ],
)
def test_a_config_that_means_nothing_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        EncoderConfig.model_validate(given)


@pytest.mark.parametrize(
    ("kind", "hidden"), [("mlp", [64]), ("vgg19_gru", [1024]), ("r3d18", [512]), ("r3d18_lstm", [512])]
)
def test_a_backbone_has_a_width_of_its_own(kind, hidden):
    assert EncoderConfig.model_validate({"kind": kind}).hidden == hidden
    assert EncoderConfig(kind=kind).hidden == hidden


def test_the_faults_are_those_of_a_user():
    assert issubclass(CheckpointError, PkdrayError)
