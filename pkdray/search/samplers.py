"""Who proposes the next trial: Optuna's samplers, made afresh for every trial so that a resumed sweep goes on alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from pkdray.errors import ConfigError


def make_sampler(kind: str, *, seed: int, number: int, startup_trials: int) -> BaseSampler:
    """A sampler for one trial.

    What a sampler knows beyond its random numbers is in the study (NSGA-II keeps the generation of a trial and the
    parents of a generation in system attributes; TPE and GP fit to the rows afresh). So a sampler that is made anew for
    every trial, with random numbers derived from the sweep's seed and the trial's number, proposes the same trial
    whether or not the process was restarted in between, and two trials never share their draws.

    Args:
        kind: one of

            * ``tpe``: multivariate, one density a group of parameters that occur together, running trials taken as bad
              ones, so that trials proposed at the same time differ;
            * ``gp``: a Gaussian process over the parameters that every completed trial has; conditional ones are
              drawn at random, and stopped (pruned) trials are ignored;
            * ``nsga2``: generations of ``startup_trials`` completed trials, the first of them random; conditional
              parameters are drawn at random. Optuna's own generation of 50 would make a sweep of 24 trials random;
            * ``random``;
            * ``grid``: the points are enqueued in the study (``pkdray.search.space.grid``), so this sampler is asked
              only for parameters that a point lacks and for trials beyond the last point: it draws them at random.
        seed: the sweep's seed (int >= 0).
        number: the trial's number (int >= 0). Only ``study.ask()`` tells it, and nothing is drawn before the first
            ``suggest``: set ``study.sampler`` between the two.
        startup_trials: how many random trials come before tpe or gp begin to model (int >= 1); nsga2: the size of a
            generation, at least 2.

    Raises:
        ConfigError: there is no such kind.

    Example:
        >>> study = optuna.create_study()
        >>> trial = study.ask()
        >>> study.sampler = make_sampler("tpe", seed=0, number=trial.number, startup_trials=10)
        >>> round(trial.suggest_float("alpha", 0, 1), 3)
        0.536
    """
    if kind not in _MAKERS:
        raise ConfigError(f"There is no sampler {kind!r}.", cure=f"Choose one of {', '.join(_MAKERS)}.")
    # Two words, since a sampler's own draws and its draws for conditional parameters must not be the same numbers.
    own, independent = (int(word) for word in np.random.SeedSequence([seed, number]).generate_state(2, np.uint32))
    with warnings.catch_warnings():
        # Long used by many; which of them an Optuna calls experimental depends on its version (4.5 all, 5.0 `group`).
        warnings.filterwarnings(
            "ignore",
            message=r"Argument ``(group|multivariate|constant_liar)``|GPSampler is experimental",
            category=optuna.exceptions.ExperimentalWarning,
        )
        return _MAKERS[kind](own, independent, startup_trials)


def _tpe(seed: int, _: int, startup_trials: int) -> BaseSampler:
    # `group`, because otherwise conditional parameters would be drawn each by itself.
    return TPESampler(seed=seed, n_startup_trials=startup_trials, multivariate=True, group=True, constant_liar=True)


def _gp(seed: int, independent: int, startup_trials: int) -> BaseSampler:
    return GPSampler(
        seed=seed,
        independent_sampler=RandomSampler(seed=independent),
        n_startup_trials=startup_trials,
        # Documented above; a line on the console for every conditional parameter of every trial helps nobody.
        warn_independent_sampling=False,
    )


class _NSGAII(NSGAIISampler):
    """NSGA-II whose independent draws have random numbers of their own.

    Optuna seeds both alike, which goes unnoticed while one sampler lives through a sweep. Made afresh for each trial,
    the first conditional parameter would always be drawn with the very number that decided about the crossover.
    """

    def __init__(self, *, seed: int, independent: int, population_size: int) -> None:
        super().__init__(seed=seed, population_size=population_size)
        self._independent = RandomSampler(seed=independent)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter uniformly."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


def _nsga2(seed: int, independent: int, startup_trials: int) -> BaseSampler:
    return _NSGAII(seed=seed, independent=independent, population_size=max(2, startup_trials))


def _random(seed: int, _: int, __: int) -> BaseSampler:
    return RandomSampler(seed=seed)


_MAKERS: dict[str, Callable[[int, int, int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "nsga2": _nsga2,
    "random": _random,
    "grid": _random,
}
