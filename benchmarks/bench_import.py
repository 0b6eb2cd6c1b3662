"""Frames decoded and faces found a second, ours beside a plain loop over PyAV and MTCNN.

Use case. An import turns videos into face crops: decode, find the face of every frame, cut it out at 112 x 112. Finding
it takes nearly all the time, and a corpus has a million frames.

Method. A clip of one face (scikit-image's photograph of Eileen Collins) that drifts and grows over a smooth background,
written as H.264 in MP4. Decoding: `read_frames` beside `container.decode` with `to_ndarray`, at the clip's own size.
Faces: `face_crops` beside what MTCNN's manual has, its own forward on one PIL picture after the other, with the same
smallest face; the frames are decoded beforehand. Everybody runs in turns; a time is the minimum over the turns, and
"ratio" the frames a second to those of the plain loop in the same run (above 1: ours is faster). "overlap" is the mean
and the least IoU of our boxes with the plain loop's, and "found" how many frames had a face.

Import (--samples). A folder as BioVid's, of copies of the clip, becomes a dataset of faces from 2.0 to 5.0 s: by
`pkdray data import`'s own function, in this process and with --workers on a local Ray that runs already. Beside it a
plain loop that decodes each clip and shows MTCNN those frames one at a time; it keeps nothing and writes nothing. Each
runs once. The workers stand there twice: with the start of their processes, which a long import does not notice, and
from their first finished sample on (the samples after it, over the time that they took).

Caveats. One CPU thread unless --threads says otherwise. Read the ratios, from one run: milliseconds move with the
machine. On an idle CPU, batches gain little; `every` gains as much as the face moves smoothly, which here it does, and
its boxes are interpolated, which the overlap shows. Our reader also checks that a file is whole and turns what phones
turned. A GPU (--device cuda) gains from batches.

Rerun, from the top of the checkout (quick: ten seconds, without the import; full: ten minutes):

    .venv/bin/python -m benchmarks.bench_import --quick
    .venv/bin/python -m benchmarks.bench_import --out results.json
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from facenet_pytorch import MTCNN
from PIL import Image
from skimage import data

from pkdray.cluster import connected
from pkdray.data.importers.build import ImportProgress, Maker, make_plan, media_options, run_import, scan_for
from pkdray.data.importers.distributed import Pool
from pkdray.data.media.faces import FaceDetector, face_crops, overlap
from pkdray.data.media.video import Frame, read_frames

FULL = {
    "frames": 75, "size": [480, 640], "min_face_size": [20, 40, 80], "every": [1, 5, 10], "repeats": 3, "samples": 24,
}  # fmt: skip
QUICK = {"frames": 26, "size": [480, 640], "min_face_size": [40], "every": [1, 5], "repeats": 2, "samples": 0}

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print the table, and return what --out writes."""
    options = parsed(argv)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, options.frames, *options.size)
        rows = decoding(path, options)
        frames = list(read_frames(path))
        for smallest in options.min_face_size:
            rows += finding(frames, smallest, options)
        if options.samples:
            rows += importing(Path(folder), options)
    print(table(rows))
    results = {"meta": environment(options), "rows": rows}
    if options.out:
        options.out.write_text(json.dumps(results, indent=1, allow_nan=False), encoding="utf-8")
    return results


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with defaults filled in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="ten seconds")
    parser.add_argument("--frames", type=int, help="of the clip")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the clip, even")
    parser.add_argument("--min-face-size", type=int, nargs="+", help="pixels")
    parser.add_argument("--every", type=int, nargs="+", help="frames from one look to the next")
    parser.add_argument("--repeats", type=int, help="turns")
    parser.add_argument("--samples", type=int, help="to import, an even number from 6 on; 0 leaves the import out")
    parser.add_argument("--workers", type=int, default=2, help="of the import on Ray")
    parser.add_argument("--batch-size", type=int, default=16, help="of our detector")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="JSON file for all that was measured")
    options = parser.parse_args(argv)
    for name, default in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return options


def write_clip(path: Path, count: int, height: int, width: int) -> None:
    """A face a third of the picture's height that in 3 s drifts to the right and grows by a fifth."""
    head = Image.fromarray(data.astronaut()).crop((112, 0, 336, 224))
    rows, columns = np.mgrid[:height, :width]
    background = np.stack([90 + 60 * rows / height, 110 + 60 * columns / width, np.full(rows.shape, 120.0)], axis=2)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for k in range(count):
            part = min(1.0, k / 75)
            side = round(height * 0.65 * (1 + 0.2 * part))
            picture = Image.fromarray(background.astype(np.uint8))
            picture.paste(head.resize((side, side)), (round(width * (0.1 + 0.3 * part)), round(height * 0.1)))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.array(picture), format="rgb24")))
        output.mux(stream.encode())


def decoding(path: Path, options: argparse.Namespace) -> list[Row]:
    """Frames decoded a second."""

    def plain() -> int:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            return sum(1 for frame in container.decode(stream) if frame.to_ndarray(format="rgb24").size)

    def ours() -> int:
        return sum(1 for frame in read_frames(path) if frame.image.size)

    (plain_s, _), (ours_s, _) = in_turns([plain, ours], 3 * options.repeats)
    return [
        row("decode", "PyAV, plain loop", options.frames, plain_s, plain_s),
        row("decode", "ours", options.frames, ours_s, plain_s),
    ]


def finding(frames: list[Frame], smallest: int, options: argparse.Namespace) -> list[Row]:
    """Faces found and cropped a second."""
    mtcnn = MTCNN(image_size=112, min_face_size=smallest, post_process=False, device=options.device)
    detector = FaceDetector(min_face_size=smallest, device=options.device, batch_size=options.batch_size)
    pictures = [Image.fromarray(frame.image) for frame in frames]

    def plain() -> list[Any]:
        return [mtcnn(picture) for picture in pictures]

    calls: list[Callable[[], Any]] = [plain]
    calls += [lambda every=every: face_crops(frames, detector, every=every) for every in options.every]
    for warm_up in (lambda: mtcnn(pictures[0]), lambda: detector.detect([frames[0].image])):
        warm_up()
    (plain_s, crops), *others = in_turns(calls, options.repeats)
    truth = [mtcnn.detect(picture)[0] for picture in pictures]
    task = f"faces >= {smallest} px"
    found = sum(crop is not None for crop in crops)
    rows = [row(task, "MTCNN, plain loop", len(frames), plain_s, plain_s, found=found)]
    for every, (seconds, clip) in zip(options.every, others, strict=True):
        overlaps = [
            overlap(box, np.asarray(boxes[0], float))
            for box, boxes in zip(clip.detections.boxes, truth, strict=True)
            if boxes is not None
        ]
        rows.append(
            row(
                task,
                f"ours, every {every}",
                len(frames),
                seconds,
                plain_s,
                found=int(clip.found.sum()),
                overlap_mean=float(np.mean(overlaps)),
                overlap_least=float(np.min(overlaps)),
            )
        )
    return rows


def importing(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Frames imported a second, at the last of the sizes of faces, with each ``every`` in this process."""
    root, smallest = folder / "biovid", options.min_face_size[-1]
    clip = folder / "sample.mp4"
    write_clip(clip, 138, *options.size)
    paths = []
    for index in range(options.samples):
        # Three subjects are the fewest that a protocol can deal to splits.
        subject = f"07130{index // 2 % 3}_w_21"
        paths.append(root / "video" / subject / f"{subject}-{('BL1', 'PA4')[index % 2]}-{index:03d}.mp4")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, paths[-1])
    mtcnn = MTCNN(image_size=112, min_face_size=smallest, post_process=False, device=options.device)

    def plain() -> int:
        found = 0
        for path in paths:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                stream.thread_count = 1
                for frame in container.decode(stream):
                    if 2.0 <= frame.time < 5.0:
                        found += mtcnn(Image.fromarray(frame.to_ndarray(format="rgb24"))) is not None
        return found

    def ours(every: int, maker: Maker | None = None) -> tuple[int, list[ImportProgress]]:
        dest = folder / "dataset"
        scan, chosen = scan_for("biovid", root, ("face",))
        making = media_options(scan, chosen, every=every, min_face_size=smallest)
        told: list[ImportProgress] = []
        made = run_import(
            make_plan(dest, scan, making, protocol="5-fold" if len(scan.recordings) > 9 else "loso"),
            told.append,
            device=options.device,
            maker=maker,
        )
        shutil.rmtree(dest)
        return int(made.counts["faces"]), told

    frames, task = 75 * len(paths), f"import >= {smallest} px"
    calls: list[Callable[[], Any]] = [plain, *(lambda every=every: ours(every) for every in options.every)]
    (plain_s, found), *alone = in_turns(calls, 1)
    rows = [row(task, "PyAV + MTCNN, plain loop", frames, plain_s, plain_s, found=found)]
    for every, (seconds, (faces, _)) in zip(options.every, alone, strict=True):
        rows.append(row(task, f"ours, every {every}", frames, seconds, plain_s, found=faces))
    pool = Pool(options.workers, options.device)
    with connected():
        ((seconds, (faces, told)),) = in_turns([lambda: ours(options.every[0], pool)], 1)
    who = f"ours, every {options.every[0]}, {options.workers} workers"
    rows.append(row(task, f"{who}, start included", frames, seconds, plain_s, found=faces))
    first, last = told[1], told[-1]
    after, seconds = 75 * (last.done - first.done), last.seconds - first.seconds
    rows.append(row(task, f"{who}, started", after, seconds, plain_s * after / frames))
    return rows


def in_turns(calls: Sequence[Callable[[], Any]], repeats: int) -> list[tuple[float, Any]]:
    """The least seconds of each call, and what it returned."""
    best: list[tuple[float, Any]] = [(float("inf"), None)] * len(calls)
    for _ in range(repeats):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            result = call()
            best[index] = (min(best[index][0], time.perf_counter() - start), result)
    return best


def row(task: str, who: str, frames: int, seconds: float, plain_s: float, **more: Any) -> Row:
    """One line of the table."""
    return {
        "task": task, "who": who, "ms_per_frame": 1e3 * seconds / frames, "frames_per_s": frames / seconds,
        "ratio": plain_s / seconds, "found": None, "overlap_mean": None, "overlap_least": None,
    } | more  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| task | who | ms a frame | frames/s | ratio | found | overlap mean | least |", "|" + " --- |" * 8]
    for line in rows:
        cells = [line["task"], line["who"], f"{line['ms_per_frame']:.3g}", f"{line['frames_per_s']:.3g}"]
        cells += [f"{line['ratio']:.2f}", "" if line["found"] is None else str(line["found"])]
        cells += ["" if line[name] is None else f"{line[name]:.3f}" for name in ("overlap_mean", "overlap_least")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures hold for."""
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor()
    return {
        "command": " ".join(sys.argv),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "device": device or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "av": av.__version__,
    }


if __name__ == "__main__":
    main()
