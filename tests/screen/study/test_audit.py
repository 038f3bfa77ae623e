"""The audit of a cohort: what it counts, and every refusal in one line."""

import numpy as np
import pytest

from rankshift.screen.errors import InputError
from rankshift.screen.study.audit import audit, estimable

ROUTE = {"start": "sick", "goal": "well"}


def cohort(*rows: tuple[str | None, str | None, str | None, int]) -> dict[str, np.ndarray]:
    """label, donor and batch of cells, from rows of label, donor, batch and number of cells."""
    repeated = [row[:3] for row in rows for _ in range(row[3])]
    label, donor, batch = (np.array(column, object) for column in zip(*repeated, strict=True))
    return {"label": label, "donor": donor, "batch": batch}


def audited(*rows, folds=2, **options):
    cells = cohort(*rows)
    batches = {"study": cells["batch"]}
    return audit(cells["label"], cells["donor"], batches=batches, folds=folds, **ROUTE, **options)


PAIRED = [(label, f"d{i}", f"s{i % 2}", 3 + i) for i in range(8) for label in ("sick", "well")]
UNPAIRED = [("sick" if i < 4 else "well", f"d{i}", f"s{i % 2}", 5) for i in range(8)]


def test_cells_are_counted_by_donor_and_by_batch():
    found = audited(*PAIRED, ("other", "x", "s9", 7), (None, "x", "s9", 7))
    assert found.donors == tuple(f"d{i}" for i in range(8))
    assert found.cells["d5"] == {"sick": 8, "well": 8}
    assert found.batches["study"]["s1"] == {"sick": 4 + 6 + 8 + 10, "well": 4 + 6 + 8 + 10}
    assert found.paired == found.start_donors == found.donors
    assert found.smallest_p == 2 / 2**8
    assert found.confounded == ()
    assert any("8 with sick, 8 with well" in line for line in found.lines())


def test_unpaired_donors_are_said_to_be_so():
    found = audited(*UNPAIRED)
    assert found.paired == ()
    assert found.start_donors == ("d0", "d1", "d2", "d3")
    assert found.smallest_p == 2 / 2**4
    with pytest.raises(InputError, match=r"--goal-of donor: 4 of 4 donors .* use --goal-of training"):
        audited(*UNPAIRED, goal_of="donor")
    audited(*PAIRED, goal_of="donor")


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (PAIRED, {"folds": 9}, "--folds is 9, the cells are of 8 donors: give at most one fold"),
        (UNPAIRED, {"folds": 5}, "--folds is 5, only 4 donors have cells of 'sick': give at most 4 folds"),
        ([*PAIRED, ("sick", None, "s0", 3)], {}, "--donor 'donor' is missing in 3 of 107 cells"),
        ([row for row in PAIRED if row[0] == "sick"], {}, "no donor has the label 'well' in 'label'"),
        (PAIRED, {"alternatives": ("worse",)}, "no donor has the label 'worse' in 'label'"),
        ([*PAIRED[:3], PAIRED[4]], {}, "only one donor has cells of 'well'"),
    ],
)
def test_what_cannot_be_studied_is_refused_in_one_line(rows, options, said):
    with pytest.raises(InputError, match=said) as refused:
        audited(*rows, **options)
    assert "\n" not in str(refused.value)


CARRIED = [*UNPAIRED[4:], *(("sick", f"d{i}", f"only{i % 2}", 5) for i in range(4)), ("other", "z", "only1", 5)]


def test_a_label_that_only_batches_without_another_have_is_refused_and_they_are_named():
    mixed = [*CARRIED, ("sick", "d9", None, 2), ("well", "d10", None, 2)]
    audited(*mixed)  # in the cells without a batch both are found
    more = [*CARRIED, ("worse", "d8", "s0", 2), ("worse", "d9", "s1", 2)]
    with pytest.raises(InputError, match="'sick' is carried only by study only0, only1, which have no other label"):
        audited(*more, alternatives=("worse",))
    found = audited(*more, alternatives=("worse",), confounded=True)
    assert len(found.confounded) == 1
    assert "only0, only1" in found.confounded[0]


def test_a_batch_column_that_is_the_label_is_refused():
    same = [(label, donor, label.upper(), n) for label, donor, _, n in PAIRED]
    with pytest.raises(InputError, match="the batch column 'study' is the label by another name"):
        audited(*same)
    assert len(audited(*same, confounded=True).confounded) == 1


def test_genes_are_counted_by_the_donors_in_which_they_can_be_judged():
    cells = np.array([[5, 9, 0], [4, 4, 4], [5, 5, 5], [9, 0, 0]])
    assert estimable(cells, 5).tolist() == [1, 1, 1, 1]
