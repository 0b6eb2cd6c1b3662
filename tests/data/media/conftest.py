"""Videos and faces made on the spot.

* ``make_video(name, images, ...)`` writes a real video under tmp_path and returns its path.
* ``numbered(number)`` is a picture that carries a number through lossy compression; ``number_of(image)`` reads it.
* ``face_image(...)`` is a picture with a face that MTCNN finds, and ``face_box(...)`` says where it is.

All are fixtures that return functions, so that importer tests can take them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from skimage import data

HEIGHT, WIDTH = 62, 98
# Where MTCNN sees the face of scikit-image's photograph of Eileen Collins (NASA, public domain), 512 x 512.
FACE = np.array([181.0, 62.0, 268.0, 172.0])
# The head, which is what is pasted: left, top, right, bottom.
HEAD = (112, 0, 336, 224)


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """``make_video(name, images, rate_hz=25, ...)``: a real video under tmp_path.

    What it takes:
        name: file name; its suffix says the container, unless ``container`` does (FFmpeg's name of it).
        images: uint8 RGB [H, W, 3], even H and W.
        rate_hz: int or Fraction.
        times_s: of every frame, for a variable frame rate; in whole milliseconds.
        codec: FFmpeg's name of the encoder.
        rotation: degrees by which the header says to turn the stored picture counter-clockwise; hflip flips it too.
        container_options: such as {"movflags": "faststart"}, which puts the header in front.
        codec_options: such as {"bf": "0"}.
        audio_hz: adds a silent sound track of that rate, ``audio_s`` seconds long.
    """

    def make(
        name: str,
        images: Iterable[np.ndarray],
        *,
        rate_hz: int | Fraction = 25,
        times_s: Sequence[float] | None = None,
        codec: str = "libx264",
        container: str | None = None,
        rotation: float | None = None,
        hflip: bool = False,
        container_options: dict[str, str] | None = None,
        codec_options: dict[str, str] | None = None,
        audio_hz: int | None = None,
        audio_s: float = 1.0,
    ) -> Path:
        path = tmp_path / name
        images = list(images)
        base = Fraction(1, 1000) if times_s is not None else 1 / Fraction(rate_hz)
        with av.open(str(path), "w", format=container, options=container_options or {}) as output:
            stream = output.add_stream(codec, rate=rate_hz, options=codec_options or {})
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.time_base = base
            if rotation is not None:
                stream.set_display_rotation(rotation, hflip=hflip)
            sound = output.add_stream("aac", rate=audio_hz) if audio_hz else None
            for index, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = round(times_s[index] * 1000) if times_s is not None else index
                frame.time_base = base
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
            if sound is not None and audio_hz:
                frame = av.AudioFrame.from_ndarray(
                    np.zeros((1, round(audio_s * audio_hz)), np.float32), format="fltp", layout="mono"
                )
                frame.rate = audio_hz
                output.mux(sound.encode(frame))
                output.mux(sound.encode())
        return path

    return make


@pytest.fixture(scope="session")
def numbered() -> Callable[..., np.ndarray]:
    """``numbered(number, height=62, width=98)``: 9 bits as bars over a ramp from red to blue."""

    def paint(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
        image = np.zeros((height, width, 3), dtype=np.uint8)
        edges = np.linspace(0, width, 10).astype(int)
        for bit in range(9):
            image[: height // 2, edges[bit] : edges[bit + 1]] = 235 if number >> bit & 1 else 20
        image[height // 2 :] = np.linspace([200, 30, 40], [20, 60, 210], width).astype(np.uint8)
        return image

    return paint


@pytest.fixture(scope="session")
def number_of() -> Callable[[np.ndarray], int]:
    """``number_of(image)``: the number that ``numbered`` painted, whatever the size of the picture."""

    def read(image: np.ndarray) -> int:
        height, width = image.shape[:2]
        centres = ((np.arange(9) + 0.5) / 9 * width).astype(int)
        return int(sum(int(image[height // 4, x].mean() > 128) << bit for bit, x in enumerate(centres)))

    return read


@pytest.fixture(scope="session")
def face_box() -> Callable[..., np.ndarray]:
    """``face_box(centre, face_px)``: left, top, right, bottom of what ``face_image`` paints, as float [4]."""

    def box(centre: tuple[float, float] = (150, 120), face_px: float = 90) -> np.ndarray:
        scale = face_px / (FACE[3] - FACE[1])
        half = (FACE[2:] - FACE[:2]) * scale / 2
        return np.concatenate([np.array(centre) - half, np.array(centre) + half])

    return box


@pytest.fixture(scope="session")
def face_image() -> Callable[..., np.ndarray]:
    """``face_image(centre=(150, 120), face_px=90, height=240, width=318, onto=None)``: a face on a smooth background.

    ``centre`` is (x, y) and ``face_px`` the height of the face, in pixels; ``onto`` is a picture to add it to, and
    ``face_px=0`` gives the background alone.
    """
    head = Image.fromarray(data.astronaut()).crop(HEAD)
    middle = (FACE[:2] + FACE[2:]) / 2 - np.array(HEAD[:2])

    def paint(
        centre: tuple[float, float] = (150, 120),
        face_px: float = 90,
        height: int = 240,
        width: int = 318,
        onto: np.ndarray | None = None,
    ) -> np.ndarray:
        if onto is None:
            rows, columns = np.mgrid[:height, :width]
            onto = np.stack([90 + rows / 5, 110 + columns / 7, np.full(rows.shape, 120.0)], axis=2).astype(np.uint8)
        if face_px == 0:
            return onto
        scale = face_px / (FACE[3] - FACE[1])
        side = round((HEAD[2] - HEAD[0]) * scale)
        picture = Image.fromarray(onto)
        place = np.round(np.array(centre) - middle * scale).astype(int)
        picture.paste(head.resize((side, side), Image.Resampling.BICUBIC), (int(place[0]), int(place[1])))
        return np.array(picture)

    return paint
