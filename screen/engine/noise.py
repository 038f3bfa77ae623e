"""The noise floor of a run: a seeded sample of its perturbations recomputed in float32, one list at a time, unshared.

What differs between the stored rows and these is numerical: 16-bit products, batch shapes, the order of sums. A shift
smaller than that is no finding. The same sample, in 16 and 32 bits, decides what `--dtype auto` means on a CPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells, CellTable
from rankshift.screen.cells.select import SEED
from rankshift.screen.encoder.device import Device
from rankshift.screen.encoder.encoder import Encoder, one_thread
from rankshift.screen.engine.shift_rows import Shifts
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.perturb.perturbation import Perturb
from rankshift.screen.runs.layout import CELL, PERTURBATION, SIMILARITY
from rankshift.screen.runs.manifest import NoiseFloor
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import quoted

CELLS = 8  # a sample draws from few cells, because each cell costs the pass of its original
SHARE = 100  # one list in SHARE is recomputed, from FEWEST to MOST of them
FEWEST, MOST = 16, 128
TOP = 100
TRIAL_LISTS = 1000  # a screen of fewer lists is over before a trial of dtypes would pay
TOLERANCE = 0.1  # fewer bits are taken when their noise is below this share of the spread of the shifts
# What `dtype auto` tries, cheapest first, and the products a device has to have for it. Plain int8 is too noisy everywhere.
CHEAPEST = {"bfloat16": "native_16_bit", "int8-delta": "native_8_bit", "bfloat16-delta": "native_16_bit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Some perturbed lists of a screen, drawn with a fixed seed: numbers of lists by cell. total: lists of the whole screen.

    cells: those with lists in the sample, `numbers` int64 [n] among all of the screen; they can travel.
    """

    cells: Cells
    numbers: np.ndarray
    perturb: Perturb
    measure: Measure
    lists: Mapping[int, np.ndarray]
    total: int

    @staticmethod
    def draw(cells: CellTable, counts: np.ndarray, perturb: Perturb, measure: Measure) -> "Sample":
        """One list in SHARE, FEWEST to MOST of them, from at most CELLS cells. counts: lists of every cell."""
        random = np.random.default_rng(SEED)
        chosen_cells = np.sort(random.permutation(np.flatnonzero(counts))[:CELLS])
        wanted = int(np.clip(counts.sum() // SHARE, FEWEST, MOST))
        owner = np.repeat(chosen_cells, counts[chosen_cells])
        number = np.concatenate([np.arange(c) for c in counts[chosen_cells]])
        chosen = np.sort(random.permutation(len(owner))[:wanted])
        numbers = np.unique(owner[chosen])
        return Sample(
            cells=cells.take(numbers),
            numbers=numbers,
            perturb=perturb,
            measure=measure,
            lists={i: number[chosen][owner[chosen] == c] for i, c in enumerate(numbers)},
            total=int(counts.sum()),
        )

    def shifts(self, encoder: Encoder, *, alone: bool = False) -> Shifts:
        """Compute the sampled lists; `alone`: in batches of one list each."""
        measure = replace(self.measure, genes=False, tokens=1 if alone else self.measure.tokens)
        with one_thread():
            found = shifts_of(self.cells, np.array(list(self.lists)), encoder, self.perturb, measure, self.lists)
        return replace(found, cell=self.numbers[found.cell].astype(np.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A dtype on the sample. noise: root mean square of the difference to float32, spread: standard deviation in float32.

    Both are of the worst measured column. time: processor time as a share of float32's.
    """

    dtype: str
    noise: float
    spread: float
    time: float

    @property
    def pays(self) -> bool:
        """Is it quiet beside what is measured, and faster than float32?"""
        return self.noise < TOLERANCE * self.spread and self.time < 1


def choose_dtype(sample: Sample, bundle: Bundle, device: Device | None = None) -> tuple[str, dict[str, Any]]:
    """What `dtype auto` means on a device, by default that of this process, and why.

    float16 on a GPU. On a CPU the types it multiplies natively are tried, cheapest first: the first whose noise is small
    beside the shifts and which is faster than float32; else float32.
    """
    device = device or Device.here()
    if device.dtype is not None:
        reason = {"reason": "this processor has no 16-bit products"}
        return device.dtype, reason if device.dtype == "float32" else {}
    if sample.total < TRIAL_LISTS:
        return "float32", {"reason": f"fewer than {TRIAL_LISTS} lists"}

    def measured(dtype: str) -> tuple[np.ndarray, float]:
        encoder = Encoder(bundle, dtype=dtype)
        start = process_time()
        return sample.shifts(encoder).measured.astype(np.float64), process_time() - start

    measured("float32")  # the first pass of a process also loads what all of them use
    exact, usual = measured("float32")
    why: dict[str, Any] = {"lists": len(exact)}
    for dtype, native in CHEAPEST.items():
        if not getattr(device, native):
            continue
        rough, spent = measured(dtype)
        noise, spread = np.sqrt(((rough - exact) ** 2).mean(0)), exact.std(0)
        worst = int(np.argmax(noise / np.maximum(spread, 1e-12)))
        trial = Trial(dtype=dtype, noise=float(noise[worst]), spread=float(spread[worst]), time=spent / usual)
        why |= {f"{dtype}_noise": trial.noise, f"{dtype}_spread": trial.spread, f"{dtype}_time": trial.time}
        if trial.pays:
            return dtype, why
    return "float32", why


def told(dtype: str, why: Mapping[str, Any]) -> str | None:
    """A line on what was chosen and what every trial showed; None where there was none."""
    trials = [
        f"{tried} has noise {why[f'{tried}_noise']:.1e} beside a spread of {why[f'{tried}_spread']:.1e}"
        + (f" and takes {why[f'{tried}_time']:.1f} times as long as float32" if why[f"{tried}_time"] >= 1 else "")
        for tried in CHEAPEST
        if f"{tried}_noise" in why
    ]
    return f"dtype {dtype}: {'; '.join(trials)}" if trials else None


def noise_floor(
    sample: Sample, run: Run, bundle: Bundle, device: str, perturbation_of: np.ndarray
) -> dict[str, NoiseFloor]:
    """Distribution of |stored - float32| over the sample, per measured column of a finished run.

    n, median, p99, max; spread: standard deviation of the stored values; rank_correlation (Spearman, None where there is
    none) and top_overlap, the share of the `top` strongest that both name.
    """
    exact = sample.shifts(Encoder(bundle, device=device, share_first_layer=False), alone=True)
    table = exact.table(run.states, perturbation_of)
    names = run.manifest.measures
    wanted = table.select([CELL, PERTURBATION]).append_column("place", pa.array(range(table.num_rows)))
    columns = ", ".join(f"any_value(s.{quoted(n)})" for n in names)
    with run.connect() as connection:
        connection.register("wanted", wanted)
        rows = connection.sql(
            f"SELECT place, {columns} FROM wanted JOIN shifts s USING (cell, perturbation) GROUP BY 1 ORDER BY 1"
        )
        stored = np.array(rows.fetchall(), np.float64)[:, 1:]
    if len(stored) != table.num_rows:
        raise RuntimeError(
            f"{table.num_rows - len(stored)} sampled rows are not in {run.path}: continue it with --resume"
        )
    return {n: _compare(stored[:, i], exact.measured[:, i], n == SIMILARITY) for i, n in enumerate(names)}


def _compare(stored: np.ndarray, exact: np.ndarray, smallest_first: bool) -> NoiseFloor:
    off = np.abs(stored - exact)
    top = max(1, min(TOP, len(off) // 4))
    first, second = (
        set(np.argsort(x if smallest_first else -x, kind="stable")[:top].tolist()) for x in (stored, exact)
    )
    varied = len(off) > 2 and np.ptp(stored) > 0 and np.ptp(exact) > 0
    return NoiseFloor(
        n=len(off),
        median=float(np.median(off)),
        p99=float(np.quantile(off, 0.99)),
        max=float(off.max()),
        spread=float(stored.std()),
        rank_correlation=float(np.corrcoef(_ranks(stored), _ranks(exact))[0, 1]) if varied else None,
        top=top,
        top_overlap=len(first & second) / top,
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks (scipy.stats loads in over a second, which every small run would pay)."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
