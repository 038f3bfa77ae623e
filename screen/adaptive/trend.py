"""What a row's cell, rank and prediction say of its value, before its gene is asked.

    y_r = B(rank_r) b + beta m_r + B(rank_r) w_c + e_r,   w_c ~ N(0, S),   e_r ~ N(0, s^2)

B: a cubic spline of the logarithm of the rank, whitened, and whether the cell lacks the gene; m: the prediction. b and beta are
common, w_c is the cell's own level and trend; S and s^2 come of EM over cells, b and beta of generalised
least squares. It is fitted on rows that were drawn, never on rows that were chosen for their values.
"""

from dataclasses import dataclass

import numpy as np

from rankshift.screen.adaptive.population import Population

KNOTS = 4
STEPS, EVERY = 25, 5  # of EM; the common part is fitted again after so many
CHUNK = 1 << 16  # rows at a time
SMALL = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trend:
    """predicted float64 [N]: the expected value of every row; variance [N]: of that, for how little its cell is known.

    residual [P]: of the P fitted rows, each as if it had been left out. explained: share of what rank and cell leave open
    that the prediction explains, NaN without one.
    """

    predicted: np.ndarray
    variance: np.ndarray
    residual: np.ndarray
    explained: float


def spline(rank: np.ndarray) -> np.ndarray:
    """Cubic spline with equal knots of ranks in 0 to 1, float64 [N, KNOTS + 3]."""
    knots = np.linspace(0, 1, KNOTS + 1)[1:-1]
    return np.column_stack([np.ones_like(rank), rank, rank**2, rank**3, *(np.maximum(rank - k, 0) ** 3 for k in knots)])


def basis(of: Population) -> np.ndarray:
    """B of every row, float64 [N, p]: a constant and whitened columns."""
    free = spline(of.rank)[:, 1:]
    free -= free.mean(0)
    some = free[:: max(1, len(free) // 20_000)]
    _, size, axes = np.linalg.svd(some, full_matrices=False)
    kept = size > size[0] * 1e-3 if size[0] > 0 else np.zeros(len(size), bool)
    columns = [np.ones(len(free)), *(free @ (axes[kept].T / size[kept]) * np.sqrt(len(some))).T]
    if of.absent.any() and not of.absent.all():
        columns.append(standard(of.absent.astype(np.float64)))
    return np.column_stack(columns)


def standard(values: np.ndarray) -> np.ndarray:
    """With mean 0 and standard deviation 1; zeros where they are all the same."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))


@dataclass(slots=True, kw_only=True, eq=False)
class _Cells:
    """The random part: of every cell the coefficients w float64 [C, p], and their covariance [C, p, p]."""

    rows: np.ndarray  # B of the fitted rows [P, p]
    cell: np.ndarray  # [P]
    products: np.ndarray  # B'B of every cell
    coefficients: np.ndarray
    covariance: np.ndarray

    def sums(self, values: np.ndarray) -> np.ndarray:
        """B'values of every cell, float64 [C, p]."""
        count = len(self.products)
        return np.stack([np.bincount(self.cell, column * values, count) for column in self.rows.T], axis=1)

    def smooth(self, values: np.ndarray, noise: float) -> np.ndarray:
        """What the cells' parts make of values [P]."""
        found = np.einsum("cij,cj->ci", self.covariance, self.sums(values)) / noise
        return (self.rows * found[self.cell]).sum(1)

    def leverage(self, noise: float) -> np.ndarray:
        """How much each fitted row [P] decides of its own fit."""
        return _quadratic(self.rows, self.covariance, self.cell) / noise


def fit(of: Population, rows: np.ndarray, values: np.ndarray) -> Trend:
    """Fit the rows int64 [P] with `values` [P], and predict all of them."""
    b_NP = basis(of)
    prediction = None if of.predicted is None else standard(of.predicted)
    x = b_NP if prediction is None else np.column_stack([b_NP, prediction])
    x_fit, cell, p = x[rows], of.cell[rows], b_NP.shape[1]
    beta = _least_squares(x_fit, values)
    left = values - x_fit @ beta
    total = max(float(left.var()), SMALL * max(float(values.var()), 1e-300), 1e-300)
    noise = total * 0.2
    spread = np.diag([total * 0.6, *[total * 0.1] * (p - 1)])
    products = np.zeros((of.cells, p, p))
    for i in range(p):
        for j in range(i, p):
            column = np.bincount(cell, b_NP[rows, i] * b_NP[rows, j], of.cells)
            products[:, i, j] = products[:, j, i] = column
    cells = _Cells(
        rows=b_NP[rows], cell=cell, products=products, coefficients=np.zeros((of.cells, p)), covariance=products
    )
    for step in range(STEPS):
        used = noise
        cells.covariance = np.linalg.inv(products / used + np.linalg.inv(spread))
        cells.coefficients = np.einsum("cij,cj->ci", cells.covariance, cells.sums(left)) / used
        spread = (cells.coefficients.T @ cells.coefficients + cells.covariance.sum(0)) / of.cells
        spread += 1e-9 * total * np.eye(p)
        fitted = (cells.rows * cells.coefficients[cell]).sum(1)
        leverage = cells.leverage(used)
        noise = max(float((((left - fitted) ** 2).sum() + used * leverage.sum()) / len(left)), SMALL * total)
        if step % EVERY == EVERY - 1:  # with the noise that the covariance was made with, or 1 - H is no covariance
            beta, explained = _common(cells, x_fit, values, used, last=prediction is not None)
            left = values - x_fit @ beta
            cells.coefficients = np.einsum("cij,cj->ci", cells.covariance, cells.sums(left)) / used
            fitted = (cells.rows * cells.coefficients[cell]).sum(1)
    return Trend(
        predicted=x @ beta + (b_NP * cells.coefficients[of.cell]).sum(1),
        variance=_quadratic(b_NP, cells.covariance, of.cell),
        residual=(left - fitted) / np.clip(1 - leverage, 0.05, None),
        explained=explained,
    )


def _common(cells: _Cells, x: np.ndarray, values: np.ndarray, noise: float, *, last: bool) -> tuple[np.ndarray, float]:
    """The common coefficients by generalised least squares; and what share of the rest the `last` column explains, or NaN.

    With H the smoother of the cells' parts, the inverse covariance of values is (1 - H) / noise.
    """
    open_x = x - np.column_stack([cells.smooth(column, noise) for column in x.T])
    open_y = values - cells.smooth(values, noise)

    def left(columns: slice) -> tuple[np.ndarray, float]:
        beta = _least_squares(open_x[:, columns].T @ x[:, columns], open_x[:, columns].T @ values)
        rest = values - x[:, columns] @ beta
        return beta, float(rest @ (open_y - open_x[:, columns] @ beta))

    beta, square = left(slice(None))
    if not last:
        return beta, float("nan")
    return beta, 1 - square / max(left(slice(-1))[1], 1e-300)


def _least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(x, y, rcond=None)[0]


def _quadratic(rows: np.ndarray, matrices: np.ndarray, which: np.ndarray) -> np.ndarray:
    """row' matrix[which] row for every row, float64 [N]."""
    out = np.empty(len(rows))
    for first in range(0, len(rows), CHUNK):
        some = slice(first, first + CHUNK)
        out[some] = np.einsum("ri,rij,rj->r", rows[some], matrices[which[some]], rows[some], optimize=True)
    return out
