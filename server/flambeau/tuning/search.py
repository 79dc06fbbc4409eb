"""Which configuration to measure next: optuna's tree-structured Parzen estimator decides.

What is measured is a callable, so the search itself knows neither servers nor clocks.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from flambeau.errors import TuningError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flambeau.tuning.candidate import Candidate
    from flambeau.tuning.space import SearchSpace
    from flambeau.tuning.trial import Trial

_GIVE_UP_SHARE: Final = 0.9  # of the best so far; measurements are not more precise than that
_NUM_RANDOM: Final = 6  # before the estimator begins to judge
_MAX_REPEATS: Final = 5  # of what is known already, in a row, before chance has a turn


class Measure(Protocol):
    """Measures one candidate, as `Bench.measure` does."""

    def __call__(self, candidate: Candidate, *, give_up_below: float) -> Trial: ...


def require_optuna() -> Any:  # noqa: ANN401  # a module
    """The optimiser library.

    Raises:
        TuningError: It is not installed.
    """
    try:
        import optuna  # noqa: PLC0415  # an extra, and slow to import
    except ImportError as error:
        raise TuningError(
            "`flambeau tune` needs optuna, which is not installed; "
            "pip install 'flambeau[tune]' brings it"
        ) from error
    return optuna


def search(
    space: SearchSpace,
    measure: Measure,
    *,
    present: Trial,
    is_over: Callable[[], bool],
    seed: int = 0,
) -> Iterator[Trial]:
    """Measure candidates, each once, until time or candidates run out.

    Args:
        space: What may be tried.
        measure: Called for each candidate; the best so far decides when it may give up.
        present: What was found about the configuration that the archive has now.
        is_over: Whether to begin no further one.
        seed: Equal seeds and equal measurements give equal candidates.

    Yields:
        What was found about each candidate, as soon as it is.
    """
    optuna = require_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_NUM_RANDOM)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for candidate in (present.candidate, *space.first_guesses()):
        places = space.places(candidate)
        if places is not None:
            study.enqueue_trial(places, skip_if_exists=True)
    known = {present.candidate: present}
    chance = random.Random(seed)  # noqa: S311  # nothing here is a secret
    best = present.requests_per_s
    num_repeats = 0
    while not is_over():
        if num_repeats == _MAX_REPEATS:
            left = [each for each in space if each not in known]
            if not left:
                return
            study.enqueue_trial(space.places(chance.choice(left)))
        asked = study.ask()
        candidate = space.choose(partial(_pick, asked))
        num_repeats = num_repeats + 1 if candidate in known else 0
        if candidate not in known:
            known[candidate] = measure(candidate, give_up_below=best * _GIVE_UP_SHARE)
            yield known[candidate]
        found = known[candidate]
        best = max(best, found.requests_per_s)
        if found.is_pruned:
            asked.report(found.requests_per_s, 0)
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(asked, found.requests_per_s)


def _pick(asked: Any, name: str, num_choices: int) -> int:  # noqa: ANN401  # optuna's trial
    return int(asked.suggest_int(name, 0, num_choices - 1))
