"""Faces in pictures: found by facenet-pytorch's MTCNN (its weights ship with it), cropped, and filled in where missing.

A clip goes through three steps: ``FaceDetector.detect`` says where a face is, ``crop_face`` cuts it out, ``retain``
fills in the frames without one. ``face_crops`` does the first two over a video of any length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, Literal, TypeVar

import numpy as np

from pkdray.data.media.threads import one_thread
from pkdray.data.media.video import Frame

T = TypeVar("T")
Select = Literal["largest", "probable"]
Gaps = Literal["retain", "black"]

_SAME_FACE = 0.5
"""Overlap (IoU) of two boxes from which on they are taken for one face that moved little."""


@dataclass(frozen=True, eq=False)
class Detections:
    """One face, or none, for each of N pictures.

    Args:
        boxes: float64 [N, 4], left, top, right, bottom in pixels, which may lie outside of the picture; NaN where no
            face was found.
        probabilities: float64 [N], in [0, 1]; 0 where no face was found.
    """

    boxes: np.ndarray
    probabilities: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Whether there is a face, bool [N]."""
        return ~np.isnan(self.boxes[:, 0])


@dataclass(frozen=True)
class FaceDetector:
    """Finds the face of each picture.

    The network is loaded on first use and left behind by pickle, so that a detector can be sent to a Ray actor. On a
    CPU it computes on one thread, so that what it finds does not depend on how many there are.

    Where a picture has several faces, the choice is the same every time: of those with at least ``min_probability``
    the largest box (or the most probable); a tie goes to the more probable (larger), then to the leftmost, topmost.

    Args:
        min_face_size: pixels of the smallest face to look for, >= 12. Time goes with its inverse: look for no smaller
            faces than there are.
        min_probability: what MTCNN must make of a face, in [0, 1]; it gives none below 0.7.
        select: "largest" or "probable".
        device: where torch computes: "cpu", "cuda", "cuda:1".
        batch_size: pictures at once; of 1080p, one takes 25 MB as float32.

    Raises:
        ValueError: an argument is out of its domain.

    Example:
        >>> detector = FaceDetector(min_face_size=80)
        >>> detector.detect([np.zeros((97, 131, 3), np.uint8)]).found.tolist()
        [False]
    """

    min_face_size: int = 40
    min_probability: float = 0.9
    select: Select = "largest"
    device: str = "cpu"
    batch_size: int = 16
    _loaded: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.min_face_size < 12:
            raise ValueError(f"min_face_size is {self.min_face_size}. Choose at least 12, the size of MTCNN's window.")
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"min_probability is {self.min_probability}. Choose it in [0, 1].")
        if self.select not in ("largest", "probable"):
            raise ValueError(f"select is '{self.select}'. Choose 'largest' or 'probable'.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}. Choose at least 1.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": {}}

    def detect(self, images: Sequence[np.ndarray] | np.ndarray, *, every: int = 1) -> Detections:
        """The face of each picture.

        With ``every`` > 1 the pictures must be successive frames of one video: the network sees every so many of them
        and the last. In between two boxes of the same face (IoU >= 0.5) the box moves in a straight line, with the
        smaller of the two probabilities; elsewhere, where a face comes, goes or jumps, the network sees all of them.
        A face that is away between two looks but back for the second is not noticed to have been away.

        Args:
            images: N pictures, uint8 RGB [H, W, 3]; sizes may differ.
            every: frames from one look to the next, >= 1.

        Raises:
            TypeError: a picture is not uint8: MTCNN finds no faces in floats, without a word.
            ValueError: a picture is not [H, W, 3], or ``every`` is below 1.
        """
        if every < 1:
            raise ValueError(f"every is {every}. Choose at least 1.")
        for index, image in enumerate(images):
            _check_image(image, f"picture {index}")
        count = len(images)
        boxes, probabilities = np.full((count, 4), np.nan), np.zeros(count)
        looks = sorted({*range(0, count, every), count - 1} - {-1})
        self._look(images, looks, boxes, probabilities)
        rest: list[int] = []
        for first, last in pairwise(looks):
            between = np.arange(first + 1, last)
            if overlap(boxes[first], boxes[last]) >= _SAME_FACE:
                part = ((between - first) / (last - first))[:, None]
                boxes[between] = (1 - part) * boxes[first] + part * boxes[last]
                probabilities[between] = min(probabilities[first], probabilities[last])
            else:
                rest.extend(between.tolist())
        self._look(images, rest, boxes, probabilities)
        return Detections(boxes, probabilities)

    def _look(
        self,
        images: Sequence[np.ndarray] | np.ndarray,
        chosen: Sequence[int],
        boxes: np.ndarray,
        probabilities: np.ndarray,
    ) -> None:
        """Show the chosen pictures to the network, in batches of equal size, and note what it finds."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index in chosen:
            # MTCNN breaks on a picture that is smaller than the smallest face.
            if min(images[index].shape[:2]) >= self.min_face_size:
                groups.setdefault(images[index].shape, []).append(index)
        for group in groups.values():
            for batch in _batched(group, self.batch_size):
                found = self._candidates(np.stack([images[index] for index in batch]))
                for index, (candidates, scores) in zip(batch, found, strict=True):
                    best = choose(candidates, scores, self.select, self.min_probability)
                    if best is not None:
                        boxes[index], probabilities[index] = candidates[best], scores[best]

    def _candidates(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All faces of each picture: boxes [F, 4] and probabilities [F]."""
        with one_thread():
            boxes, probabilities = self._network().detect(images)
        for picture in range(len(images)):
            if boxes[picture] is None:
                yield np.empty((0, 4)), np.empty(0)
            else:
                # Where all pictures have equally many faces, numpy makes one array of objects of them.
                found = np.asarray(boxes[picture], np.float64)
                scores = np.asarray(probabilities[picture], np.float64)
                # The last regression step may throw a box out of the picture or turn it inside out.
                size = np.array([images.shape[2], images.shape[1]])
                sound = (np.maximum(found[:, :2], 0) < np.minimum(found[:, 2:], size)).all(axis=1)
                yield found[sound], scores[sound]

    def _network(self) -> Any:
        if "mtcnn" not in self._loaded:
            from facenet_pytorch import MTCNN

            self._loaded["mtcnn"] = MTCNN(min_face_size=self.min_face_size, device=self.device).eval()
        return self._loaded["mtcnn"]


def choose(boxes: np.ndarray, probabilities: np.ndarray, select: Select, min_probability: float = 0.0) -> int | None:
    """Which of a picture's faces to take; None where none is probable enough.

    Args:
        boxes: [F, 4], left, top, right, bottom.
        probabilities: [F].
        select: "largest" (ties: the more probable) or "probable" (ties: the larger); then the leftmost, topmost.
        min_probability: faces below it do not count.

    Example:
        >>> boxes = np.array([[0.0, 0, 10, 10], [20, 0, 50, 30], [0, 0, 90, 90]])
        >>> probabilities = np.array([0.99, 0.95, 0.72])
        >>> choose(boxes, probabilities, "largest", 0.9), choose(boxes, probabilities, "probable", 0.9)
        (1, 0)
    """
    able = np.flatnonzero(probabilities >= min_probability)
    if not len(able):
        return None
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    first, second = (areas, probabilities) if select == "largest" else (probabilities, areas)
    return min(able.tolist(), key=lambda face: (-first[face], -second[face], boxes[face, 0], boxes[face, 1]))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes [4], in [0, 1]; 0 where one is NaN.

    Example:
        >>> overlap(np.array([0.0, 0, 4, 3]), np.array([2.0, 0, 6, 3]))
        0.3333333333333333
    """
    if np.isnan(first).any() or np.isnan(second).any():
        return 0.0
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    common = float(np.prod(np.maximum(sides, 0.0)))
    union = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - common
    return common / union if union > 0 else 0.0


def crop_face(image: np.ndarray, box: np.ndarray, *, size: int = 112, margin: float = 0.0) -> np.ndarray:
    """A face as a square picture, undistorted.

    The square is centred on the box, its side the longer side of the box times (1 + 2 margin). Where it sticks out of
    the picture it is moved inside, and made smaller where the picture itself is: so there is never a border of black.
    The square keeps its fractions of a pixel; it is scaled with a triangle filter as wide as a target pixel
    (antialiasing).

    Args:
        image: uint8 RGB [H, W, 3].
        box: left, top, right, bottom in pixels [4].
        size: side of the result in pixels, >= 1.
        margin: what to add on each side, as a fraction of the box's longer side, > -0.5.

    Returns:
        uint8 RGB [size, size, 3].

    Raises:
        TypeError: the picture is not uint8.
        ValueError: the picture is not [H, W, 3], or the box is NaN, empty or nowhere in the picture.

    Example:
        >>> image = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
        >>> (crop_face(image, np.array([2, 1, 5, 4]), size=3) == image[1:4, 2:5]).all()
        np.True_
    """
    from PIL import Image

    _check_image(image, "the picture")
    if size < 1 or not -0.5 < margin < float("inf"):
        raise ValueError(f"size is {size} and margin {margin}. Choose a size >= 1 and a finite margin > -0.5.")
    left, top, side = square(box, image.shape[0], image.shape[1], margin)
    crop = Image.fromarray(np.ascontiguousarray(image)).resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.array(crop)


def square(box: np.ndarray, height: int, width: int, margin: float = 0.0) -> tuple[float, float, float]:
    """The square that ``crop_face`` cuts out of a picture: left, top and side, in pixels.

    Raises:
        ValueError: the box is NaN or infinite, empty or nowhere in the picture.

    Example:
        >>> square(np.array([80.0, 10, 100, 40]), height=60, width=90)
        (60.0, 10.0, 30.0)
    """
    left, top, right, bottom = (float(edge) for edge in box)
    if not np.isfinite(box).all() or left >= min(right, width) or top >= min(bottom, height) or min(right, bottom) <= 0:
        raise ValueError(
            f"The box is {[left, top, right, bottom]}, in a picture of {height} x {width}. "
            "Crop only faces that were found."
        )
    side = min(max(right - left, bottom - top) * (1 + 2 * margin), height, width)
    inside_left = min(max((left + right - side) / 2, 0.0), width - side)
    inside_top = min(max((top + bottom - side) / 2, 0.0), height - side)
    return inside_left, inside_top, side


def retain(crops: np.ndarray, found: np.ndarray, *, mode: Gaps = "retain") -> tuple[np.ndarray, np.ndarray]:
    """Fill in the frames of a clip in which no face was found.

    "retain" (frame retention) repeats the last face before the gap, and the first face for frames before that;
    "black" makes them 0. A clip without any face is black in either mode.

    Args:
        crops: [N, ...], frames in order of time; what stands where no face was found does not matter.
        found: bool [N].
        mode: "retain" or "black".

    Returns:
        crops as given, the gaps filled, in new memory; and ``retained``, bool [N]: True where the crop is not a face
        of that very frame, but a repetition, or black.

    Raises:
        ValueError: the shapes do not fit, ``found`` is not boolean, or the mode is unknown.

    Example:
        >>> crops, retained = retain(np.array([0, 7, 0, 0, 5]), np.array([False, True, False, False, True]))
        >>> crops.tolist(), retained.tolist()
        ([7, 7, 7, 7, 5], [True, False, True, True, False])
    """
    if found.dtype != np.bool_ or found.shape != crops.shape[:1]:
        raise ValueError(
            f"found has dtype {found.dtype} and shape {list(found.shape)}, but crops {list(crops.shape)}. "
            "Give one bool for every crop."
        )
    if mode not in ("retain", "black"):
        raise ValueError(f"mode is '{mode}'. Choose 'retain' or 'black'.")
    retained = ~found
    if mode == "black" or not found.any():
        filled = crops.copy()
        filled[retained] = 0
        return filled, retained
    source = np.maximum.accumulate(np.where(found, np.arange(len(found)), -1))
    source[source < 0] = int(np.argmax(found))
    return crops[source], retained


@dataclass(frozen=True, eq=False)
class FaceCrops:
    """The faces of a clip of N frames.

    Args:
        times_s: float64 [N], of the frames.
        crops: uint8 RGB [N, size, size, 3]; black where no face was found.
        detections: where the faces are, in pixels of the frames.
    """

    times_s: np.ndarray
    crops: np.ndarray
    detections: Detections

    @property
    def found(self) -> np.ndarray:
        """Whether there is a face, bool [N]."""
        return self.detections.found


def face_crops(
    frames: Iterable[Frame], detector: FaceDetector, *, size: int = 112, margin: float = 0.0, every: int = 1
) -> FaceCrops:
    """The face of every frame of a clip.

    Holds few frames at a time, about two batches of the detector's, so a video may be long. A clip without frames
    gives N = 0, one without faces ``found`` all False: whether that is an error, the caller knows.

    Args:
        frames: of one video, in order of time.
        detector: finds the faces.
        size: side of the crops in pixels.
        margin: as for ``crop_face``.
        every: as for ``FaceDetector.detect``.

    Raises:
        DatasetError: what ``frames`` raises on a broken video passes through.

    Example:
        >>> frames = read_frames("071309_w_21-PA4-006.mp4", start_s=2.0, end_s=5.0)  # doctest: +SKIP
        >>> faces = face_crops(frames, FaceDetector(min_face_size=80), every=5)  # doctest: +SKIP
        >>> crops, retained = retain(faces.crops, faces.found)  # doctest: +SKIP
    """
    times: list[float] = []
    crops = [np.empty((0, size, size, 3), np.uint8)]
    boxes, probabilities = [np.empty((0, 4))], [np.empty(0)]
    # A whole number of strides, since the last frame of a chunk is looked at as well.
    length = every * max(1, 2 * detector.batch_size // every)
    for chunk in _batched(frames, length):
        found = detector.detect([frame.image for frame in chunk], every=every)
        faces = np.zeros((len(chunk), size, size, 3), np.uint8)
        for index in np.flatnonzero(found.found):
            faces[index] = crop_face(chunk[index].image, found.boxes[index], size=size, margin=margin)
        times.extend(frame.time_s for frame in chunk)
        crops.append(faces)
        boxes.append(found.boxes)
        probabilities.append(found.probabilities)
    return FaceCrops(
        np.array(times, dtype=np.float64),
        np.concatenate(crops),
        Detections(np.concatenate(boxes), np.concatenate(probabilities)),
    )


def _batched(items: Iterable[T], length: int) -> Iterator[tuple[T, ...]]:
    rest = iter(items)
    while batch := tuple(islice(rest, length)):
        yield batch


def _check_image(image: np.ndarray, name: str) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if hasattr(image, "dtype") else type(image).__name__
        raise TypeError(f"{name} is of {kind}. Give a uint8 array of RGB, 0 to 255: in floats MTCNN finds no faces.")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"{name} has shape {list(image.shape)}. Give RGB pictures [H, W, 3].")
