"""The learning rate's way up and down, what decays, and what cannot train."""

import math

import pytest
import torch

from rankshift.jobs.training.recipe import Recipe, adamw
from rankshift.screen.errors import InputError


def rates(steps: int, **options) -> list[float]:
    recipe = Recipe(learning_rate=2.0, **options)
    return [recipe.rate(step, steps) for step in range(1, steps + 1)]


def test_warm_up_by_share_and_by_steps_are_the_same():
    assert rates(8, warmup=0.5) == rates(8, warmup=4)
    assert rates(8, warmup=4)[:4] == [0.25, 0.75, 1.25, 1.75]
    assert rates(8, warmup=0.0)[0] == 2.0 * 7.5 / 8
    assert rates(3, warmup=100) == pytest.approx([1 / 3, 1.0, 5 / 3])  # never past the peak


def test_schedules_go_down_as_named():
    assert rates(8, warmup=4)[4:] == [1.75, 1.25, 0.75, 0.25]
    assert rates(8, warmup=4, schedule="constant")[4:] == [2.0] * 4
    cosine = [1 + math.cos(math.pi * x) for x in (0.125, 0.375, 0.625, 0.875)]
    assert rates(8, warmup=4, schedule="cosine")[4:] == pytest.approx(cosine)


def test_only_matrices_that_train_decay():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
    model[0].weight.requires_grad_(False)
    decaying, others = adamw(model, Recipe(weight_decay=0.1)).param_groups
    assert ([p is model[2].weight for p in decaying["params"]], decaying["weight_decay"]) == ([True], 0.1)
    assert (len(others["params"]), others["weight_decay"]) == (4, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"schedule": "step"}, "schedule 'step' is unknown: use linear, cosine, constant"),
        ({"warmup": 2.5}, "warmup is 2.5: give a share below 1, or a whole number of steps"),
        ({"warmup": -1}, "warmup is -1"),
        ({"accumulate": 0}, "accumulate is 0: give at least 1"),
        ({"judge_every": 0}, "judge_every is 0"),
        ({"dtype": "float16"}, "dtype 'float16' cannot train"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_train(options, message):
    with pytest.raises(InputError, match=message):
        Recipe(**options)
