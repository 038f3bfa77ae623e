"""Heads and what they read, batches, and adapters: padding, framing and thinning change nothing they should not."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankshift.jobs.finetuning.adapters import add_adapters, carry_over, merge
from rankshift.jobs.finetuning.evaluation.predictions import Places, by_gene, probabilities
from rankshift.jobs.finetuning.examples import Examples, padded, thinned
from rankshift.jobs.finetuning.labels.labels import NONE, Task
from rankshift.jobs.finetuning.models import Head, cell_logits, new_model, readout
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import PLAIN, Frame

KIND = Task(name="kind", classes=("a", "b", "c"))


FRAMED = Frame(head=1, tail=1)


@pytest.fixture
def lists(generation):
    """Three cells of 9, 4 and 6 tokens, framed where the generation is."""
    genes = [np.arange(10, 10 + n) for n in (9, 4, 6)]
    return genes if generation == "v1" else [np.array([2, *g[:-2], 3]) for g in genes]


@pytest.mark.parametrize("per_row", [True, False])
def test_padding_changes_no_logits(bundles, generation, lists, per_row):
    torch.manual_seed(0)
    model = new_model(Bundle.open(bundles[generation]), Head(tasks=(KIND,), per_row=per_row)).eval()
    framed = generation == "v2"
    frame = Frame.of_record(framed)
    ids, real = (torch.from_numpy(x) for x in padded(lists, 0))
    with torch.no_grad():
        together = cell_logits(model, ids, real, frame)
        for row, alone in enumerate(lists):
            one = torch.from_numpy(alone.astype(np.int64))[None]
            np.testing.assert_allclose(cell_logits(model, one, None, frame)[0], together[row], atol=1e-5)
            if per_row:  # the mean over genes, specials left out, of plain transformers' logits
                rows = model(one).logits[0]
                mean = (rows[1:-1] if framed else rows).mean(0)
                np.testing.assert_allclose(mean, together[row], atol=1e-5)


def test_auto_reads_cls_where_there_is_one():
    assert (readout("auto", FRAMED), readout("auto", PLAIN)) == ("cls", "mean")
    assert readout("first", PLAIN) == "first"
    with pytest.raises(InputError, match="--pool first reads <cls> in framed cells: say cls"):
        readout("first", FRAMED)


def test_heads_of_several_tasks_lie_side_by_side():
    head = Head(tasks=(KIND, Task(name="sex", classes=("f", "m"))), per_row=False)
    assert head.slices == (slice(0, 3), slice(3, 5))
    assert head.names == ["kind=a", "kind=b", "kind=c", "sex=f", "sex=m"]


def test_the_loss_weighs_classes_and_tasks_and_skips_what_has_no_label(bundles):
    bundle = Bundle.open(bundles["v1"])
    head = Head(tasks=(KIND, Task(name="sex", classes=("f", "m"), weight=0.5)), per_row=True)
    cells = Cells(
        ids=np.arange(10, 22, dtype=np.int32),
        offsets=np.array([0, 3, 8, 12]),
        obs=pa.table({"cell_id": ["x", "y", "z"]}),
    )
    by_row = np.array([[0, 1], [2, NONE], [1, 0]])
    weights = (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0]))
    examples = Examples(table=cells, head=head, pad=0, rows=np.arange(3), by_row=by_row, weights=weights)
    torch.manual_seed(0)
    model = new_model(bundle, head).eval()
    with torch.no_grad():
        summed, count = examples.loss(model, examples.batch(np.arange(3)))
        logits = [
            cell_logits(model, torch.from_numpy(cells.ids_of(i).astype(np.int64))[None], None, PLAIN)[0]
            for i in range(3)
        ]
    logs = [(x[:3].log_softmax(-1), x[3:].log_softmax(-1)) for x in logits]
    kind = -(1 * logs[0][0][0] + 3 * logs[1][0][2] + 2 * logs[2][0][1])
    sex = -(4 * logs[0][1][1] + 1 * logs[2][1][0])
    assert float(summed) == pytest.approx(float(kind + 0.5 * sex), rel=1e-5)
    assert float(count) == pytest.approx(1 + 3 + 2 + 0.5 * (4 + 1))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(3, 40), share=st.floats(0, 0.99), framed=st.booleans(), seed=st.integers(0, 1000))
def test_thinned_lists_keep_order_frame_and_a_gene(n, share, framed, seed):
    ids = np.arange(100, 100 + n)
    kept = thinned(ids, share, Frame.of_record(framed), np.random.default_rng(seed))
    assert (np.diff(kept) > 0).all()
    assert set(kept) <= set(ids)
    assert len(kept) > 2 * framed
    if framed:
        assert (kept[0], kept[-1]) == (ids[0], ids[-1])
    if share == 0:
        assert len(kept) == n


def test_what_adapters_learnt_on_another_copy_is_merged_into_the_plain_one(bundles):
    """The way of a quantized encoder: trained on a copy, carried over, merged; here the copy is exact, so logits agree."""
    head, bundle = Head(tasks=(KIND,), per_row=False), Bundle.open(bundles["v2"])
    torch.manual_seed(0)
    plain, copy = new_model(bundle, head), new_model(bundle, head)
    copy.load_state_dict(plain.state_dict())
    trained, target = add_adapters(copy, 4, frozen=1), add_adapters(plain, 4, frozen=1)
    with torch.no_grad():
        for parameter in copy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        expected, before = copy.eval()(ids).logits, plain.eval()(ids).logits
    carry_over(copy, plain)
    merged = merge(target)
    with torch.no_grad():
        np.testing.assert_allclose(merged(ids).logits, expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-3)
    assert merged is plain
    assert trained is not target


def test_places_of_genes_and_their_mean(bundles):
    cells = Cells(
        ids=np.array([5, 7, 9, 7, 5, 9, 7], np.int32),
        offsets=np.array([0, 3, 5, 7]),
        obs=pa.table({"cell_id": [1, 2, 3]}),
    )
    by_token = np.full(10, NONE)
    by_token[[7, 9]] = [0, 1]
    examples = Examples(
        table=cells, head=Head(tasks=(KIND,), per_row=True), pad=0, rows=np.array([0, 2]), by_token=by_token
    )
    places = Places.of(examples)
    assert (places.row.tolist(), places.place.tolist(), places.token.tolist()) == (
        [0, 0, 2, 2],
        [1, 2, 0, 1],
        [7, 9, 9, 7],
    )
    given = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]])
    mean, count = by_gene(places.token, given, np.array([7, 8, 9]))
    assert mean.tolist() == [[0.75, 0.25], [0.0, 0.0], [0.25, 0.75]]
    assert count.tolist() == [2, 0, 2]


def test_probabilities_of_large_logits():
    np.testing.assert_allclose(probabilities(np.array([[1000.0, 1000.0], [0.0, -2000.0]])), [[0.5, 0.5], [1.0, 0.0]])
