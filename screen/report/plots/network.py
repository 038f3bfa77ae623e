"""Which other genes the strongest perturbations move: hits, and the genes they move more than anything else moves them.

A gene low in the list moves under every perturbation, so an edge is drawn for the excess: how much further the gene's
embedding turned than under the typical perturbation of the run. Needs gene shifts; an edge is a change inside the model.
"""

import networkx
import numpy as np
import pyarrow as pa

from rankshift.screen.report.findings import Findings
from rankshift.screen.report.plots import theme
from rankshift.screen.report.plots.drawing import Drawing
from rankshift.screen.report.plots.label_placement import places, text_size
from rankshift.screen.report.plots.volcano import shortened

HITS = 10
AFFECTED = 6  # genes per hit
LEAST_CELLS = 3  # a pair needs as many cells where the run is judged by so few; below, one cell decides
SEED = 0
MARGIN = {"l": 10, "r": 10, "t": 30, "b": 10}


def edges(findings: Findings, hits: int = HITS, affected: int = AFFECTED) -> pa.Table:
    """Rows (symbols, affected_symbol, cells, turned, typical, excess): the strongest perturbations' largest excesses.

    turned: 1 minus the mean cosine of the affected gene before and after; typical: the same over all perturbations of the
    run; excess: their difference. The run must have gene shifts.
    """
    run = findings.run
    ids = findings.strings("gene_ids")[:hits]
    least = min(LEAST_CELLS, findings.judging.min_cells)
    with run.connect() as connection:
        connection.register("strongest", pa.table({"gene_ids": ids, "place": range(len(ids))}))
        return connection.sql(f"""
            WITH typical AS (
                SELECT affected_gene, 1 - sum(sum) / sum(n) AS typical FROM genes GROUP BY 1
            ), pairs AS (
                SELECT any_value(g.symbols) AS symbols, g.affected_gene, any_value(g.affected_symbol) AS affected_symbol,
                       any_value(s.place) AS place, CAST(sum(g.n) AS BIGINT) AS cells, 1 - sum(g.sum) / sum(g.n) AS turned
                FROM genes g JOIN strongest s USING (gene_ids) GROUP BY g.perturbation, g.affected_gene
            )
            SELECT symbols, affected_symbol, cells, turned, typical, turned - typical AS excess
            FROM pairs JOIN typical USING (affected_gene) WHERE cells >= {least} AND turned > typical
            QUALIFY row_number() OVER (PARTITION BY place ORDER BY excess DESC, affected_gene) <= {int(affected)}
            ORDER BY place, excess DESC""").to_arrow_table()


def plot_effects_network(
    findings: Findings, *, hits: int = HITS, width: int | None = None, height: int = 560
) -> Drawing:
    """The `hits` strongest perturbations and the genes they move most, drawn by forces; thick edges for a large excess."""
    if findings.run.manifest.gene_shifts is None:
        return theme.empty(200, "no gene shifts: screen again with --gene-shifts to see which genes move")
    table = edges(findings, hits)
    if not len(table):
        return theme.empty(200, "the strongest perturbations move no gene more than the typical one does")
    graph = networkx.DiGraph()
    for row in table.to_pylist():
        graph.add_edge(row["symbols"], row["affected_symbol"], **row)
    perturbed = list(dict.fromkeys(table["symbols"].to_pylist()))
    place = networkx.spring_layout(graph, seed=SEED, k=2.2 / np.sqrt(len(graph)), iterations=300, weight=None)
    made = theme.figure(
        height, width, margin=MARGIN,
        xaxis={"visible": False, "range": [-1.15, 1.15]}, yaxis={"visible": False, "range": [-1.12, 1.12]},
    )  # fmt: skip
    largest = float(np.max(table["excess"].to_numpy()))
    for row in table.to_pylist():
        (x0, y0), (x1, y1) = place[row["symbols"]], place[row["affected_symbol"]]
        made.trace(
            "scatter",
                x=[x0, x1], y=[y0, y1], mode="lines", hoverinfo="skip", showlegend=False,
                line={"color": theme.EDGE, "width": 0.4 + 2.2 * row["excess"] / largest},
        )  # fmt: skip
    _nodes(made, "perturbed", perturbed, place, theme.TOWARDS, "diamond", 15, table)
    _nodes(made, "moved", [n for n in graph if n not in perturbed], place, theme.AWAY, "circle", 9, table)
    _write_names(made, [*perturbed, *(n for n in graph if n not in perturbed)], place, (width or 1040, height))
    return made


def _nodes(
    made: Drawing, name: str, nodes: list[str], place: dict, colour: str, symbol: str, size: int, table: pa.Table
) -> None:
    said = []
    rows = table.to_pylist()
    for node in nodes:
        moves = [f"{theme.plain(r['affected_symbol'])} {r['excess']:.2g}" for r in rows if r["symbols"] == node]
        moved = [f"{theme.plain(r['symbols'])} {r['excess']:.2g}" for r in rows if r["affected_symbol"] == node]
        lines = [f"moves {', '.join(moves)}"] * bool(moves) + [f"moved by {', '.join(moved)}"] * bool(moved)
        said.append(f"<b>{theme.plain(node)}</b><br>" + "<br>".join(lines))
    made.trace(
        "scatter",
            x=[place[n][0] for n in nodes], y=[place[n][1] for n in nodes], mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": size}, customdata=said,
            hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip


def _write_names(made: Drawing, nodes: list[str], place: dict, size: tuple[int, int]) -> None:
    wide, high = size[0] - MARGIN["l"] - MARGIN["r"], size[1] - MARGIN["t"] - MARGIN["b"]
    points = [((place[n][0] + 1.15) / 2.3 * wide, (place[n][1] + 1.12) / 2.24 * high) for n in nodes]
    names = [shortened(n) for n in nodes]
    offsets = places(
        points,
        [text_size(n, theme.SIZE - 1) for n in names],
        (0.0, 0.0, float(wide), float(high)),
        first=[float(np.degrees(np.arctan2(place[n][1], place[n][0]))) for n in nodes],  # away from the middle
    )
    for node, name, offset in zip(nodes, names, offsets, strict=True):
        if offset is not None:
            made.note(
                text=theme.plain(name), x=place[node][0], y=place[node][1], ax=offset[0], ay=-offset[1], arrowhead=0,
                arrowwidth=0.6, standoff=5, font={"size": theme.SIZE - 1}, name="gene",
            )  # fmt: skip
