"""An epoch of a student with a frozen VGG19, on cached steps beside the whole network.

Use case. A student on face crops keeps its pretrained VGG19 frozen and trains a GRU behind it. Without a cache VGG19
goes over every picture in every epoch of every trial; a frozen T-Net has a second one.

Method. A made-up dataset of films (--samples, --frames, --size), a file of random weights, the label's loss and a batch
of 32. `train_student` runs --epochs epochs, once on the pictures and once on cached steps; a time is the minimum over
the epochs (validation included) without the first, and "ratio" that of the pictures to that of the steps. "once" is
what computing the steps of all samples takes, the test split included. "difference" is the largest between the two
trainings' losses.

Caveats. One CPU thread unless --threads says otherwise. The ratio grows with the pictures' size, since what is left is
the GRU: read it as an order of magnitude. VGG19 is the dearest of the backbones.

Rerun, from the top of the checkout (under two minutes):

    .venv/bin/python -m benchmarks.bench_frozen
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from pkdray.config import Config, EncoderConfig
from pkdray.data.dataset import Dataset, DatasetInfo, Modality, write_dataset
from pkdray.models.backbones import build_encoder
from pkdray.training.frozen import with_steps
from pkdray.training.inputs import split_arrays
from pkdray.training.plan import Plan, make_plan
from pkdray.training.students import train_student

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> Row:
    """Run, print the row, and return what --out writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        row = measured(Path(folder), options)
    print("  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    if options.out:
        options.out.write_text(json.dumps({"settings": vars(options) | {"out": None}, "row": row}, indent=2) + "\n")
    return row


def measured(folder: Path, options: argparse.Namespace) -> Row:
    """Both trainings in one folder."""
    dataset = films(folder / "data", options)
    plan = study(folder, dataset, options)
    arrays = split_arrays(plan, dataset, ["film"])
    started = time.perf_counter()
    with_steps(plan, plan.config.student, arrays, folder / "frozen", options.device)
    once = time.perf_counter() - started
    pictures, losses = epoch(plan, arrays, None, options.device)
    steps, same = epoch(plan, arrays, folder / "frozen", options.device)
    return {
        "pictures_seconds": pictures,
        "steps_seconds": steps,
        "ratio": pictures / steps,
        "once_seconds": once,
        "difference": max(abs(one - other) for one, other in zip(losses, same, strict=True)),
    }


def epoch(plan: Plan, arrays: Any, frozen: Path | None, device: str) -> tuple[float, list[float]]:
    """Seconds of the fastest epoch after the first, and the loss of each."""
    ends: list[float] = []
    fitted = train_student(
        plan,
        plan.config,
        arrays,
        seed=0,
        frozen=frozen,
        device=device,
        report=lambda _: ends.append(time.perf_counter()),
    )
    return float(np.diff(ends).min()), [entry["train/loss"] for entry in fitted.history]


def films(path: Path, options: argparse.Namespace) -> Dataset:
    """Noise that is a little brighter in one class."""
    rng = np.random.default_rng(0)
    shape = (options.frames, options.size, options.size, 3)
    target = np.arange(options.samples) % 2
    noise = rng.integers(0, 200, (options.samples, *shape)) + 50 * target[:, None, None, None, None]
    subject = [f"p{index % 6}" for index in range(options.samples)]
    split = ["train" if index % 6 < 4 else "val" if index % 6 == 4 else "test" for index in range(options.samples)]
    names = [f"s{index}" for index in range(options.samples)]
    samples = pd.DataFrame(
        {
            "sample_id": names,
            "subject_id": subject,
            "sequence_id": names,
            "target": rng.permutation(target),
            "split": split,
        }
    )
    modalities = {"film": Modality(kind="images", shape=shape, rate=25), "voice": Modality(shape=(3,))}
    info = DatasetInfo(name="films", task="classification", classes=("dark", "bright"), modalities=modalities)
    features = {"film": noise.astype(np.uint8), "voice": rng.normal(size=(options.samples, 3)).astype(np.float32)}
    return write_dataset(path, info, samples, features)


def study(folder: Path, dataset: Dataset, options: argparse.Namespace) -> Plan:
    """A student of the film alone."""
    weights = folder / "vgg19.safetensors"
    torch.manual_seed(0)
    shape = dataset.info.modalities["film"].shape
    network = build_encoder(EncoderConfig(kind="vgg19_gru"), shape, per_frame=False)
    save_file(network.backbone.network.state_dict(), weights)  # type: ignore[union-attr, operator]
    encoder = {"kind": "vgg19_gru", "hidden": [64], "weights": str(weights), "freeze": True}
    config = {
        "name": "films",
        "dataset": {"path": str(dataset.path), "prevalent": ["film"]},
        "student": {"encoders": {"film": encoder}, "tnet": {"training": "none"}},
        "method": {"name": "supervised"},
        "training": {"epochs": options.epochs, "batch_size": 32},
    }
    return make_plan(Config.model_validate(config), dataset)


if __name__ == "__main__":
    main()
