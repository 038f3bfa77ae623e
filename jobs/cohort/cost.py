"""What a study costs before anything is computed: passes of the screens, cells of the trainings, hours on one worker."""

from dataclasses import dataclass
from typing import Any

from rankshift.jobs.cohort.models import recipe
from rankshift.jobs.cohort.options import Study
from rankshift.jobs.cohort.source import Cohort, Drawn
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import blocks
from rankshift.screen.encoder.cost import EFFICIENCY, list_flops, product_rate
from rankshift.screen.encoder.device import Device
from rankshift.screen.families.family import measured_layers
from rankshift.screen.families.operators import DTYPES
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.perturbation import eligible
from rankshift.screen.study.draw import ANALYSIS, POOL

BACKWARD = 3  # a training step costs the forward pass and about two of them on the way back


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """passes: of the screens, originals included; learnt: cells that the trainings see, times over; hours: on one worker."""

    passes: int
    learnt: int
    hours: float


def cost(cohort: Cohort, drawn: Drawn, bundle: Bundle, genes: tuple[int, ...] | None) -> Cost:
    """The cost on this machine's device. genes: tokens that are screened, None for all."""
    study, sizes = cohort.study, bundle.sizes
    layers = measured_layers(bundle.config, study.layer)
    screened = drawn.row[(drawn.role == ANALYSIS) & (drawn.label == cohort.start)]
    passes, flops = 0, 0.0
    for arm in study.arms:
        perturb = asked(arm, how="each", genes=genes, frame=cohort.table.frame, limit=bundle.input_size)
        for some in blocks(cohort.table, screened):
            lists = eligible(some.ids, some.offsets, perturb) + 1
            passes += int(lists.sum())
            flops += float((lists * list_flops(sizes, layers, some.lengths)).sum())
    epochs = recipe(study).passes
    pool = drawn.role == POOL
    lengths = cohort.table.lengths[drawn.row[pool]]
    learnt = round(epochs * int(sum((drawn.fold[pool] != fold).sum() for fold in range(study.folds))))
    each = BACKWARD * epochs * list_flops(sizes, sizes.layers, lengths)
    training = sum(float(each[drawn.fold[pool] != fold].sum()) for fold in range(study.folds))
    device = Device.here()
    screens = flops / _rate(device, study)
    return Cost(passes=passes, learnt=learnt, hours=(screens + training / _rate(device, study)) / 3600)


def _rate(device: Device, study: Study) -> float:
    dtype: Any = study.dtype if study.dtype != "auto" else device.dtype or "float32"
    return product_rate(device.kind, DTYPES.get(dtype, DTYPES["bfloat16"])) * EFFICIENCY
