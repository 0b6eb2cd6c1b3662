"""Convolutional backbones of torchvision: on face crops, on clips of them, and on spectrograms.

What a sample may be, by its shape (channels last, as stored; T frames, L clips of F frames):

    [T, bins]           one picture of one channel, a spectrogram or biosignals; a frame is a row    resnet18
    [H, W, C]           one picture a sample, C = 1 or 3; a vector, even where targets are per frame resnet18
    [T, H, W, C]        a picture a frame (C = 3 for vgg19_gru)                                      resnet18, vgg19_gru
    [F, H, W, 3]        one clip a sample                                                            r3d18, r3d18_lstm
    [L, F, H, W, 3]     a sequence of clips, a frame of the targets being a clip                     r3d18, r3d18_lstm

Pictures of uint8 are scaled and normalised here (`as_pictures`); floats are taken as they are, since spectrograms
are standardised with the other features. torchvision is imported when such an encoder is built, and not before.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pkdray.config import EncoderConfig
from pkdray.models.encoder import Encoder, Steps
from pkdray.models.weights import load_pretrained

FEATURES = 512
"""Channels of the last layer of VGG19, ResNet-18 and R3D-18."""
NETWORKS = {"vgg19_gru": "vgg19", "r3d18": "r3d_18", "r3d18_lstm": "r3d_18", "resnet18": "resnet18"}
"""torchvision's name of the network in an encoder of each kind."""
CHUNK = 32
"""Pictures that go through a backbone at once: about 0.2 GB a layer for VGG19 at 112 x 112."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's channels in [0, 1], with which torchvision's image networks were trained."""
KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
"""Mean and deviation of Kinetics-400's channels in [0, 1], with which torchvision's R3D-18 was trained."""


class Head(Protocol):
    """What turns steps [B, S, 512] into features: an encoder class for sequences."""

    def __call__(self, inputs: int, hidden: list[int], dropout: float, *, per_frame: bool) -> Encoder:
        """Build it."""
        ...


class MeanOfSteps(Encoder):
    """The features themselves, averaged over the steps unless the targets are per frame.

    Shapes: [B, S, h] -> [B, h], or [B, S, h] with ``per_frame``.
    """

    def __init__(self, inputs: int, hidden: list[int], dropout: float, *, per_frame: bool) -> None:
        super().__init__()
        if hidden != [inputs]:
            raise ValueError(f"hidden is {hidden}, but the features themselves have a width of {inputs}")
        self.dropout = nn.Dropout(dropout)
        self.per_frame = per_frame
        self.width = inputs

    def forward(self, values: Tensor) -> Tensor:
        """Pool a batch."""
        return self.dropout(values if self.per_frame else values.mean(dim=1))


class Backbone(nn.Module):
    """A convolutional network on many pictures or clips, its map [N, 512, ...] averaged over the axes ``averaged``.

    Pictures go through in chunks wherever that changes no answer: not while BatchNorm takes its statistics from the
    batch, nor while a graph is exported. A chunk that needs gradients keeps none of its activations but computes them
    again, so that the memory is that of one chunk, however long the samples. A frozen network gets no gradients and
    stays in evaluation mode, BatchNorm included.

    Shapes: [N, ..., C] -> [N, 512], or [N, 512, S] where an axis is kept.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        *,
        averaged: tuple[int, ...],
        frozen: bool,
        chunk: int = CHUNK,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(not frozen)
        # Constants, so no part of a state dict: it then has the names of torchvision's files below `network`.
        self.register_buffer("mean", torch.tensor(statistics[0]), persistent=False)
        self.register_buffer("std", torch.tensor(statistics[1]), persistent=False)
        self.averaged = averaged
        self.frozen = frozen
        self.chunk = chunk
        self._normalises = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Switch dropout and BatchNorm; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of every picture or clip."""
        mixes = self._normalises and self.network.training
        if torch.compiler.is_compiling() or mixes or len(pictures) <= self.chunk:
            return self._features(pictures)
        parts = pictures.split(self.chunk)
        if torch.is_grad_enabled() and not self.frozen:
            return torch.cat([checkpoint(self._features, part, use_reentrant=False) for part in parts])
        return torch.cat([self._features(part) for part in parts])

    def _features(self, pictures: Tensor) -> Tensor:
        return self.network(as_pictures(pictures, self.mean, self.std)).mean(dim=self.averaged)


def as_pictures(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Channels first and, for uint8, x -> (x / 255 - mean) / std channel by channel; floats keep their values.

    Grey pictures of uint8 are normalised with the averages of the three means and deviations.
    Shapes: [N, ..., C] -> [N, C, ...].
    """
    if not values.is_floating_point():
        if values.shape[-1] == 1:
            mean, std = mean.mean(), std.mean()
        values = (values.to(mean.dtype) / 255 - mean) / std
    return values.movedim(-1, 1)


class VisualEncoder(Encoder):
    """A convolutional backbone and a head on its steps; see the table above for shapes.

    A clip or a spectrogram comes out of the backbone with fewer steps S than it has frames T (T / 8 and T / 32); where
    targets are per frame, each step is repeated over the frames that it stands for: frame t takes step floor(t S / T).
    """

    def __init__(self, backbone: Backbone, head: Encoder, shape: tuple[int, ...], *, nested: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.frames = shape[0]
        self.nested = nested
        self.width = head.width

    def steps(self, values: Tensor) -> Tensor:
        """What the backbone makes of a batch, before the head: [B, S, 512]."""
        if self.nested:
            steps: Tensor = self.backbone(values.flatten(0, 1)).unflatten(0, (-1, self.frames))
            return steps
        maps = self.backbone(values.unsqueeze(-1) if values.ndim == 3 else values)
        return maps.transpose(1, 2) if maps.ndim == 3 else maps.unsqueeze(1)

    def forward(self, values: Tensor | Steps) -> Tensor:
        """Encode a batch of one modality, from its pictures or from what the frozen backbone made of them."""
        if isinstance(values, Steps):
            if not self.backbone.frozen:
                raise ValueError("steps are of a frozen backbone, and this one trains: give it the pictures")
            steps = values.values
        else:
            steps = self.steps(values)
        features = self.head(steps)
        if features.ndim == 2 or features.shape[1] == self.frames:
            return features
        steps_of = torch.arange(self.frames, device=features.device) * features.shape[1] // self.frames
        return features[:, steps_of]


def frozen_state(module: nn.Module) -> dict[str, Tensor]:
    """The part of a network's state dict that its frozen backbones hold, and a file of weights beside it.

    Example:
        >>> frozen_state(nn.Linear(3, 2))
        {}
    """
    return {
        f"{name}.network.{key}" if name else f"network.{key}": value
        for name, part in module.named_modules()
        if isinstance(part, Backbone) and part.frozen
        for key, value in part.network.state_dict().items()
    }


def build_vgg19(config: EncoderConfig, shape: tuple[int, ...], *, per_frame: bool, head: Head) -> Encoder:
    """VGG19's convolutions on every frame, averaged over the picture, and recurrent layers over the frames.

    Shapes: [B, T, H, W, 3] -> [B, h], or [B, T, h] with ``per_frame``; H and W at least 32.
    Source: Simonyan and Zisserman (2015), configuration E; PKD (2023) for the GRU.

    Raises:
        CheckpointError: the file of weights is missing, damaged or of another network.
    """
    from torchvision.models.vgg import cfgs, make_layers

    # Only the convolutions: torchvision's whole VGG19 would draw 124 million weights for a classifier to throw away.
    network = nn.Sequential(OrderedDict(features=make_layers(cfgs["E"], batch_norm=False)))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    _load(network, config, "classifier.")
    backbone = Backbone(network, IMAGENET, averaged=(2, 3), frozen=config.freeze)
    return VisualEncoder(backbone, _head(head, config, per_frame), shape, nested=True)


def build_r3d18(config: EncoderConfig, shape: tuple[int, ...], *, per_frame: bool, head: Head = MeanOfSteps) -> Encoder:
    """R3D-18 on clips; ``head`` sees the sequence of clips, or the steps of the one clip.

    Shapes: [B, F, H, W, 3] -> [B, h], or [B, F, h] with ``per_frame``; [B, L, F, H, W, 3] -> [B, h], or [B, L, h].
    Source: Tran et al. (2018), A closer look at spatiotemporal convolutions.

    Raises:
        CheckpointError: the file of weights is missing, damaged or of another network.
    """
    from torchvision.models.video import r3d_18

    network = _convolutions(r3d_18(weights=None, progress=False))
    _load(network, config, "fc.")
    nested = len(shape) == 5
    backbone = Backbone(
        network,
        KINETICS,
        averaged=(2, 3, 4) if nested else (3, 4),
        frozen=config.freeze,
        chunk=max(1, CHUNK // shape[-4]),
    )
    return VisualEncoder(backbone, _head(head, config, per_frame), shape, nested=nested)


def build_resnet18(config: EncoderConfig, shape: tuple[int, ...], *, per_frame: bool) -> Encoder:
    """ResNet-18 on a spectrogram, on biosignals, on one picture, or on a picture a frame.

    With one channel, weights of an RGB network are summed over its three channels.
    Shapes: [B, T, bins] -> [B, 512], or [B, T, 512] with ``per_frame``; [B, H, W, C] -> [B, 512];
    [B, T, H, W, C] -> [B, 512], or [B, T, 512]; C = 1 or 3.
    Source: He et al. (2016).

    Raises:
        CheckpointError: the file of weights is missing, damaged or of another network.
    """
    from torchvision.models import resnet18

    whole = resnet18(weights=None, progress=False)
    if len(shape) == 2 or shape[-1] == 1:
        whole.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(whole.conv1.weight, mode="fan_out", nonlinearity="relu")
    network = _convolutions(whole)
    _load(network, config, "fc.")
    backbone = Backbone(network, IMAGENET, averaged=(3,) if len(shape) == 2 else (2, 3), frozen=config.freeze)
    # One picture stands for the whole sample, so it has no frames to give.
    head = _head(MeanOfSteps, config, per_frame and len(shape) != 3)
    return VisualEncoder(backbone, head, shape, nested=len(shape) == 4)


def _head(head: Head, config: EncoderConfig, per_frame: bool) -> Encoder:
    return head(FEATURES, config.hidden, config.dropout, per_frame=per_frame)


def _convolutions(network: nn.Module) -> nn.Sequential:
    """All layers before the pooling, under torchvision's names."""
    return nn.Sequential(
        OrderedDict((name, child) for name, child in network.named_children() if name not in ("avgpool", "fc"))
    )


def _load(network: nn.Module, config: EncoderConfig, unused: str) -> None:
    load_pretrained(
        network,
        config.weights,
        name=NETWORKS[config.kind],
        checksum=config.weights_checksum,
        unused=[unused],
        frozen=config.freeze,
    )
