"""The cluster: workers, fan-out, training jobs and the command line.

`screen(cells, bundle, out, perturb="delete", workers=8)` is `rankshift.screen.run` on Ray.
"""

from typing import TYPE_CHECKING, Any

from rankshift.jobs.pool.auth import use_token
from rankshift.screen.errors import in_python

if TYPE_CHECKING:
    from rankshift.jobs.cohort.study import study
    from rankshift.jobs.cohort.truth.validate import validate
    from rankshift.jobs.verbs.screen import screen

__all__ = ["screen", "study", "validate"]

use_token()


def __getattr__(name: str) -> Any:
    # Loaded when first used: the command line must not wait for torch to say what is wrong with its arguments.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "study":
        from rankshift.jobs.cohort.study import study  # late: importing rankshift.jobs must not wait for torch

        return in_python(study)
    if name == "validate":
        from rankshift.jobs.cohort.truth.validate import validate  # late, for the same reason

        return in_python(validate)
    from rankshift.jobs.verbs.screen import screen  # late, for the same reason

    return in_python(screen)


def __dir__() -> list[str]:
    return sorted(__all__)
