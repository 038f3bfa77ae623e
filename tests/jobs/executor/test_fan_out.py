"""The loop with many workers that only wait: it asks them little, and whoever never answers costs nothing."""

import pytest

from benchmarks.fanout import measure


@pytest.mark.parametrize("ahead", [1, 2])
def test_all_shards_of_many_workers_come_back_with_their_steps(ahead):
    """`measure` raises where a shard or a step is missing. A shard of a fifth of LOOK: hardly anybody has to be asked."""
    load = measure(200, 0.05, 4, ahead=ahead)
    assert load.shards == 800
    assert load.questions <= 2 * 200


def test_workers_that_never_answer_are_not_waited_for():
    assert measure(50, 0.02, 3, silent=50).shards == 150
