"""Which cells are judged and which are learnt from, and which donors share a fold; all drawn by the seed."""

import numpy as np

from rankshift.jobs.cohort.source import ANALYSIS, POOL, Cohort, Drawn
from rankshift.screen.errors import InputError


def drawn_of(cohort: Cohort) -> Drawn:
    """Draw analysis cells, the same number of every donor and label at most, then the pool, capped; deal donors to folds."""
    study, random = cohort.study, np.random.default_rng(cohort.study.seed)
    donors = sorted(set(cohort.donor))
    if len(donors) < study.folds:
        raise InputError(
            f"--folds is {study.folds}, the cells are of {len(donors)} donors: give at most one fold for each"
        )
    fold = {donor: i % study.folds for i, donor in enumerate(random.permutation(donors).tolist())}
    rows, roles = [], []
    for donor in donors:
        for state in cohort.states:
            there = random.permutation(np.flatnonzero((cohort.donor == donor) & (cohort.label == state)))
            judged = min(study.cells_per_donor, (len(there) + 1) // 2)
            taken = there[: judged + study.pool_per_donor]
            rows += taken.tolist()
            roles += [ANALYSIS] * judged + [POOL] * (len(taken) - judged)
    order = np.argsort(rows)
    some = np.array(rows)[order]
    return Drawn(
        row=cohort.rows[some],
        donor=cohort.donor[some],
        label=cohort.label[some],
        role=np.array(roles, dtype=object)[order],
        fold=np.array([fold[donor] for donor in cohort.donor[some]], np.int32),
    )
