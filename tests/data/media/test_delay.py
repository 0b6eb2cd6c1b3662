from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkdray.data.media import delay
from pkdray.data.media.delay import estimate_delay, shift_back
from pkdray.errors import DatasetError


def walks(seed=0, frames=521, names=("train_1", "train_2", "train_3")):
    """A smooth signal by sequence, each of its own length."""
    rng = np.random.default_rng(seed)
    return {
        name: np.convolve(rng.normal(size=frames + 13 * i + 8), np.ones(9) / 9, "valid") for i, name in enumerate(names)
    }


def late(signal, frames):
    """The signal as an annotator gives it: ``frames`` later."""
    return np.concatenate([np.repeat(signal[:1], frames, axis=0), signal[: len(signal) - frames]])


TRAIN = dict.fromkeys(["train_1", "train_2", "train_3"], "train")


def test_doctests():
    assert doctest.testmod(delay).failed == 0


class TestEstimate:
    @settings(deadline=None, max_examples=25)
    @given(st.integers(0, 20), st.integers(0, 1000), st.sampled_from(["ccc", "correlation"]))
    def test_a_known_delay_is_found_and_undone(self, steps, seed, score):
        signals = walks(seed)
        gold = {name: late(signal, 10 * steps) for name, signal in signals.items()}
        found = estimate_delay(signals, gold, split_of=TRAIN, score=score)
        assert found.delay_s == pytest.approx(0.4 * steps)
        assert found.scores[found.delay_s] == pytest.approx(1)
        assert found.at_limit == (steps == 20)
        for name, signal in signals.items():
            back = shift_back(gold[name], found.delay_s, 25)
            kept = len(signal) - 10 * steps
            assert np.array_equal(back[:kept], signal[:kept])

    def test_the_grid_of_the_papers(self):
        signals = walks()
        found = estimate_delay(signals, signals, split_of=TRAIN)
        assert list(found.scores) == [round(0.4 * step, 1) for step in range(21)]
        assert found.delay_s == 0
        assert found.sequences == ("train_1", "train_2", "train_3")
        assert found.score == "ccc"

    def test_scores_are_means_over_the_sequences_on_the_same_frames(self):
        signals = walks()
        gold = {name: late(signal, 17) + 0.1 * np.sin(np.arange(len(signal))) for name, signal in signals.items()}
        found = estimate_delay(signals, gold, split_of=TRAIN, rate_hz=30, max_s=2.0, step_s=0.5)
        expected = {}
        for seconds, shift in {0.0: 0, 0.5: 15, 1.0: 30, 1.5: 45, 2.0: 60}.items():
            each = []
            for name, signal in signals.items():
                a, b = signal[:-60], gold[name][shift : shift + len(signal) - 60]
                covariance = np.cov(a, b, bias=True)
                each.append(2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + (a.mean() - b.mean()) ** 2))
            expected[seconds] = np.mean(each)
        assert found.scores == pytest.approx(expected)
        assert found.delay_s == 0.5

    def test_ccc_minds_the_scale_and_correlation_does_not(self):
        signals = walks()
        gold = {name: 7 * late(signal, 30) + 3 for name, signal in signals.items()}
        found = estimate_delay(signals, gold, split_of=TRAIN, score="correlation")
        assert found.delay_s == pytest.approx(1.2)
        assert found.scores[found.delay_s] == pytest.approx(1)
        assert max(estimate_delay(signals, gold, split_of=TRAIN).scores.values()) < 0.5

    def test_several_targets_count_alike(self):
        signals = {name: np.stack([signal, np.roll(signal, 7)], axis=1) for name, signal in walks().items()}
        gold = {name: late(signal, 50) for name, signal in signals.items()}
        assert estimate_delay(signals, gold, split_of=TRAIN).delay_s == 2.0

    def test_what_is_constant_says_nothing_but_does_no_harm(self):
        signals = walks()
        gold = {name: late(signal, 40) for name, signal in signals.items()}
        gold["train_2"] = np.full_like(signals["train_2"], 0.1)
        for score in ("ccc", "correlation"):
            found = estimate_delay(signals, gold, split_of=TRAIN, score=score)
            assert found.delay_s == pytest.approx(1.6)
            assert found.scores[found.delay_s] == pytest.approx(2 / 3)

    def test_nothing_but_train(self):
        signals = walks(names=("train_1", "dev_1", "test_1"))
        split_of = {"train_1": "train", "dev_1": "val", "test_1": "test"}
        with pytest.raises(
            DatasetError, match=r"2 of 3 sequences are not of .* 'dev_1 \(val\)', 'test_1 \(test\)'"
        ) as e:
            estimate_delay(signals, signals, split_of=split_of)
        assert "train sequences alone" in e.value.cure
        with pytest.raises(DatasetError, match="1 sequences have no split: 'test_1'"):
            estimate_delay(signals, signals, split_of={"train_1": "train", "dev_1": "train"})
        # Gold of other splits that no signal asks for is never looked at.
        alone = estimate_delay({"train_1": signals["train_1"]}, {**signals, "dev_1": None}, split_of=split_of)
        assert alone.sequences == ("train_1",)

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"signals": {}}, "no sequences"),
            ({"gold": {}}, "3 sequences have no gold standard: 'train_1', 'train_2', 'train_3'"),
            ({"gold": walks(frames=520)}, r"'train_1' has a signal of shape \[521\] and a gold standard of \[520\]"),
            ({"signals": walks(frames=150), "gold": walks(frames=150)}, r"'train_1' has 150 frames \(6 s\), too few"),
            ({"gold": {**walks(), "train_2": np.full(534, np.nan)}}, "'train_2' has 534 values in its gold standard"),
            ({"signals": {**walks(), "train_3": np.full(547, np.inf)}}, "'train_3' has 547 values in its signal"),
            ({"gold": {name: np.full(len(w), 0.3) for name, w in walks().items()}}, "Every delay scores 0"),
            ({"max_s": -1}, "Delays up to -1 s in steps of 0.4 s are none at 25"),
            ({"step_s": 0.01}, "steps of 0.01 s"),
            ({"max_s": float("nan")}, "Delays up to nan s"),
            ({"rate_hz": 0}, "rate is 0 Hz"),
            ({"score": "mse"}, "score is 'mse'"),
        ],
    )
    def test_what_cannot_be_estimated(self, changes, what):
        arguments = {"signals": walks(), "gold": walks(), "split_of": TRAIN, **changes}
        with pytest.raises(DatasetError, match=what) as error:
            estimate_delay(arguments.pop("signals"), arguments.pop("gold"), **arguments)
        assert error.value.cure


class TestShift:
    @given(st.integers(1, 60), st.integers(0, 59), st.sampled_from([25, 30, 29.97]), st.booleans())
    def test_every_frame_gets_what_was_annotated_later_and_the_last_repeats(self, frames, shift, rate, wide):
        if shift >= frames:
            return
        gold = np.arange(frames * 2, dtype=np.float32).reshape(frames, 2) if wide else np.arange(frames)
        back = shift_back(gold, shift / rate, rate)
        assert back.shape == gold.shape
        assert back.dtype == gold.dtype
        assert np.array_equal(back, gold[np.minimum(np.arange(frames) + shift, frames - 1)])

    def test_shifts_add_up(self):
        gold = np.random.default_rng(0).normal(size=101)
        assert np.array_equal(shift_back(shift_back(gold, 0.4, 25), 0.8, 25), shift_back(gold, 1.2, 25))

    @pytest.mark.parametrize(
        ("delay_s", "what"),
        [
            (-0.4, r"delay is -0\.4 s"),
            (float("nan"), "delay is nan s"),
            (2.0, r"17 frames cannot be shifted back by 50 \(2 s at 25 Hz\)"),
        ],
    )
    def test_what_is_no_delay(self, delay_s, what):
        with pytest.raises(DatasetError, match=what) as error:
            shift_back(np.zeros(17), delay_s, 25)
        assert error.value.cure
