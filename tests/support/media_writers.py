"""Writers of real media for the replicas: videos with a face that MTCNN finds, sounds, and cropped faces."""

from __future__ import annotations

import io
import wave
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from skimage import data

HEIGHT, WIDTH = 120, 160
HEAD = (112, 0, 336, 224)
SOUND_HZ = 44_100


def scene(level: float, moment: float = 0.0, face: bool = True) -> np.ndarray:
    """A head of 100 to 116 pixels that wanders to the right in front of a grey ramp; uint8 [120, 160, 3]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    picture = Image.fromarray(np.stack([90 + rows / 5, 110 + columns / 7, 120 + 0 * rows], axis=2).astype(np.uint8))
    if face:
        side = 100 + round(16 * level)
        head = Image.fromarray(data.astronaut()).crop(HEAD).resize((side, side))
        picture.paste(head, (4 + round(30 * moment), 2))
    return np.array(picture)


@lru_cache(maxsize=256)
def video_bytes(frames: int, rate: float, level: float, face: bool, sound_s: float | None) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=round(rate), options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        base = Fraction(1, round(rate))
        stream.codec_context.time_base = base
        sound = output.add_stream("aac", rate=SOUND_HZ) if sound_s else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(scene(level, index / frames, face), format="rgb24")
            frame.pts, frame.time_base = index, base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if sound is not None and sound_s:
            frame = av.AudioFrame.from_ndarray(tone(sound_s, SOUND_HZ, level)[None], format="fltp", layout="mono")
            frame.rate = SOUND_HZ
            output.mux(sound.encode(frame))
            output.mux(sound.encode())
    return out.getvalue()


def tone(seconds: float, rate: int, level: float) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (220 + 200 * level + 40 * time) * time)).astype(np.float32)


def make_video(path: Path, *, seconds: float, rate: float, level: float, face: bool = True, **_: Any) -> None:
    path.write_bytes(video_bytes(round(seconds * rate), rate, round(level, 1), face, None))


def make_sounding_video(path: Path, *, seconds: float, rate: float, level: float, **_: Any) -> None:
    path.write_bytes(video_bytes(round(seconds * rate), rate, round(level, 1), False, seconds))


def make_audio(path: Path, *, seconds: float, rate: int, level: float, **_: Any) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((tone(seconds, rate, level) * 32767).astype("<i2").tobytes())


@lru_cache(maxsize=64)
def image_bytes(size: tuple[int, int], level: float) -> bytes:
    out = io.BytesIO()
    head = Image.fromarray(data.astronaut()).crop((181, 62, 268, 172)).resize(size[::-1])
    Image.fromarray((np.array(head) * (0.5 + level / 2)).astype(np.uint8)).save(out, "JPEG")
    return out.getvalue()


def make_image(path: Path, *, size: tuple[int, int], level: float, **_: Any) -> None:
    path.write_bytes(image_bytes(tuple(size), round(level, 1)))
