"""How far RECOLA's labels lag behind: estimated on the training recordings of this very import, and on no other.

What the annotators' ratings follow has to be known before anything is trained, so it is a plain signal: the loudness of
the voice, which rises with arousal and at once. The same delay is taken out of valence. Skin conductance would not do:
it answers seconds late itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pkdray.data.faults import some
from pkdray.data.importers import recola
from pkdray.data.importers.build import without_delay
from pkdray.data.importers.recordings import Scan
from pkdray.data.media import audio
from pkdray.data.media.delay import DelayEstimate, estimate_delay
from pkdray.errors import DatasetError

MAX_S = 8.0
"""The longest delay tried, seconds."""
STEP_S = 0.4
"""From one delay to the next, seconds."""

_RATE_HZ = 16_000
_POWER_FLOOR = 1e-10


def without_estimated_delay(
    scan: Scan, root: Path, *, protocol: str = "train/dev", seed: int = 0
) -> tuple[Scan, DelayEstimate]:
    """RECOLA's clips with a delay taken out that is estimated on the training recordings.

    Args:
        scan: of RECOLA; with whatever modalities.
        root: its folder, whose sound is read.
        protocol: says with ``seed`` who is train: people of val and test have no say.
        seed: of what the protocol leaves to chance.

    Returns:
        The scan ``without_delay``, and the estimate.

    Raises:
        DatasetError: the scan has no tracks of labels; a training recording has no sound, labels that are missing, or
            ends within ``MAX_S``; loudness and arousal do not go together at any delay; the clips that the delay costs
            change who is train.
    """
    if scan.track_rate is None:
        raise DatasetError(f"{scan.name} has no tracks of labels to be shifted.", cure="Leave the delay out.")
    split = scan.assign(protocol, seed=seed).split
    people = sorted({one.sequence_id for one in scan.recordings if split.get(one.subject_id) == "train"})
    files = recola.audio_files(root)
    missing = [one for one in people if one not in files]
    if missing:
        raise DatasetError(
            f"The delay cannot be estimated: {len(missing)} of {len(people)} training recordings have no sound: "
            f"{some(missing)}.",
            cure="Restore recordings_audio/, or give the delay in seconds.",
        )
    signals, gold = {}, {}
    arousal = recola.TARGETS.index("arousal")
    for one in people:
        sound = loudness(files[one], scan.track_rate)
        count = min(len(sound), len(scan.tracks[one]))
        signals[one], gold[one] = sound[:count], scan.tracks[one][:count, arousal]
    split_of = {one.sequence_id: split[one.subject_id] for one in scan.recordings if one.subject_id in split}
    try:
        estimate = estimate_delay(
            signals, gold, split_of=split_of, rate_hz=scan.track_rate, max_s=MAX_S, step_s=STEP_S, score="correlation"
        )
    except DatasetError as error:
        # Its own cure names arguments, which nobody can give to an import.
        raise DatasetError(
            error.what, cure="Give the delay in place of auto: --delay SECONDS.", details=error.details
        ) from error
    best = estimate.scores[estimate.delay_s]
    if best <= 0:
        raise DatasetError(
            f"The delay cannot be estimated: in {len(people)} training recordings arousal does not rise with the "
            f"loudness of the voice at any delay (the correlation is {best:.3f} at most).",
            cure="Check that sounds and gold standard belong together, or give the delay in seconds.",
        )
    shifted = without_delay(scan, estimate.delay_s)
    now = shifted.assign(protocol, seed=seed).split
    moved = [one for one in estimate.sequences if now.get(one) != "train"]
    if moved:
        raise DatasetError(
            f"Taking out {estimate.delay_s:g} s costs so many clips that {some(moved)}, on which it was estimated, are "
            "no longer training recordings.",
            cure="Give the delay in seconds, or another seed.",
        )
    return shifted, estimate


def estimate_note(estimate: DelayEstimate) -> str:
    """How a delay was found, for whoever uses the dataset."""
    tried = list(estimate.scores)
    return (
        f"A delay of {estimate.delay_s:g} s was taken out of the labels: of {tried[0]:g} to {tried[-1]:g} s it has the "
        f"highest correlation of the voice's loudness with arousal, the mean over {len(estimate.sequences)} training "
        f"recordings ({curve(estimate)})."
    )


def estimate_lines(estimate: DelayEstimate) -> list[str]:
    """The same for the console."""
    lines = [
        f"Delay: {estimate.delay_s:g} s, by the correlation of loudness with arousal in {len(estimate.sequences)} "
        f"training recordings: {curve(estimate)}."
    ]
    if estimate.at_limit:
        lines.append("  The longest delay that was tried is the best: the true one may be longer, or there is none.")
    return lines


def curve(estimate: DelayEstimate) -> str:
    """The score of every delay tried.

    Example:
        >>> curve(DelayEstimate(0.4, {0.0: 0.1, 0.4: 0.25}, "correlation", ("train_1",)))
        '0 s 0.100, 0.4 s 0.250'
    """
    return ", ".join(f"{delay:g} s {score:.3f}" for delay, score in estimate.scores.items())


def loudness(path: Path, rate_hz: float) -> np.ndarray:
    """The power of a sound in dB, float64 [T]: each value over the time from its label to the next.

    Args:
        path: of a sound.
        rate_hz: labels a second, a divisor of 16 kHz.

    Raises:
        DatasetError: the sound cannot be read.
    """
    samples, _ = audio.read_audio(path, rate_hz=_RATE_HZ)
    each = round(_RATE_HZ / rate_hz)
    count = len(samples) // each
    power = np.square(samples[: count * each].astype(np.float64)).reshape(count, each).mean(axis=1)
    return 10 * np.log10(np.maximum(power, _POWER_FLOOR))
