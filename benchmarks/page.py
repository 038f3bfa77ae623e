"""Tables and plots of docs/benchmarks.md, drawn from the newest row of every case on each kind of device in results.csv.

    python -m benchmarks.page [--csv FILE] [--docs FOLDER]

It measures nothing. Older rows stay in the file, so a plot that is drawn again loses nothing.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.record import RESULTS, read

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- newest runs -->", "<!-- end of newest runs -->"
COLOURS = {"transformers, float32": "#9aa0a6", "float32": "#1f77b4", "bfloat16": "#d9822b", "float16": "#2a9d5c"}
SHARES = ("encoder", "compare", "handling", "write", "planning", "wait", "noise_floor")
Rows = list[dict[str, str]]


def newest(rows: Rows) -> dict[str, Rows]:
    """By device, the newest row of every case, in the order in which cases first appeared; quick runs do not count."""
    out: dict[str, dict[str, dict[str, str]]] = {}
    for row in sorted((r for r in rows if "--quick" not in r["command"]), key=lambda r: r["date"]):
        out.setdefault(row["device"], {})[row["case"]] = row
    return {device: list(cases.values()) for device, cases in sorted(out.items())}


def where(row: dict[str, str]) -> str:
    """Hardware, software, revision and day of a run."""
    cores = f", {row['cores']} cores" if row["device"] == "cpu" else ""
    return (
        f"{row['processor']}{cores}, torch {row['torch']}, transformers {row['transformers']}, "
        f"newest row of revision {row['revision']}, {row['date'][:10]}"
    )


def short(text: str) -> str:
    """A number as tables show it."""
    if not text:
        return ""
    value = float(text)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.1e}"


def percent(text: str, digits: int = 0) -> str:
    """A share as tables show it."""
    return f"{float(text):.{digits}%}" if text else ""


def markdown(rows: Rows) -> str:
    """The tables of one run."""
    lines = [
        "| case | engine /s | transformers /s | ratio | engine unshared /s | transformers in that dtype /s | "
        "peak MB (transformers) | share of peak | deviation | spread |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        if r["benchmark"] == "screen":
            cells = [
                f"{r['model']}, {r['tokens']} tokens, {r['embedding']}, {r['perturb']}, {r['dtype']}",
                short(r["engine_per_s"]),
                short(r["stock_per_s"]),
                f"{float(r['ratio']):.1f}",
                short(r["unshared_per_s"]),
                short(r["stock_same_dtype_per_s"]),
                f"{float(r['peak_mb']):,.0f} ({float(r['stock_peak_mb']):,.0f})",
                percent(r["share_of_peak"]),
                short(r["max_deviation"]),
                short(r["spread"]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for r in rows:
        if r["benchmark"] == "overhead":
            shares = ", ".join(f"{name.replace('_', ' ')} {percent(r[f'{name}_share'], 2)}" for name in SHARES)
            lines.append(
                f"- A whole screen ({r['model']}, {r['lists']} perturbations of {r['tokens']}-token cells, {r['dtype']}): "
                f"{float(r['fixed_s_per_cell']):.4f} s per cell for planning, comparison, handling and writing; "
                f"of the run {shares}."
            )
        if r["benchmark"] == "storage":
            per = r["case"].split("-")[1]
            lines.append(
                f"- Rows, {int(per):,} to a shard: {short(r['written_per_s'])} per second from a worker to queryable Parquet, "
                f"{short(r['queried_per_s'])} per second through a GROUP BY over {int(r['lists']):,}; "
                f"{float(r['bytes_per_row']):.1f} bytes a row."
            )
        if r["benchmark"] == "tokenizer":
            lines.append(
                f"- Tokenizer, h5ad to token table: {short(r['engine_per_s'])} cells per second, "
                f"{short(r['stock_per_s'])} in a loop over cells (x {float(r['ratio']):.1f})."
            )
    return "\n".join(lines)


def plot_bars(rows: Rows, path: Path) -> None:
    """Perturbations per second and peak memory of each deletion case, engine by dtype beside transformers."""
    some = [r for r in rows if r["benchmark"] == "screen" and r["perturb"] == "delete"]
    groups = list(dict.fromkeys((r["model"], r["tokens"]) for r in some))
    dtypes = list(dict.fromkeys(r["dtype"] for r in some))
    width = 0.8 / (1 + len(dtypes))
    figure, (speed, memory) = plt.subplots(2, 1, figsize=(9, 7.2), constrained_layout=True)
    for axes, ours, theirs in ((speed, "engine_per_s", "stock_per_s"), (memory, "peak_mb", "stock_peak_mb")):
        for g, group in enumerate(groups):
            of = {r["dtype"]: r for r in some if (r["model"], r["tokens"]) == group}
            base = max(float(r[theirs]) for r in of.values())
            bars = {"transformers, float32": base, **{d: float(of[d][ours]) for d in dtypes if d in of}}
            for i, (name, value) in enumerate(bars.items()):
                label = (name if i == 0 else f"engine, {name}") if g == 0 else None
                at = g + (i - (len(bars) - 1) / 2) * width
                axes.bar(at, value, width * 0.94, color=COLOURS[name], label=label)
                if axes is speed:
                    note = short(str(value)) + (f"\nx {float(of[name]['ratio']):.1f}" if i else "")
                else:
                    note = f"{value:,.0f}"
                axes.annotate(note, (at, value), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        axes.set_xticks(range(len(groups)), [f"{model}\n{tokens} tokens" for model, tokens in groups])
        axes.spines[["top", "right"]].set_visible(False)
    speed.set_yscale("log")
    speed.margins(y=0.18)
    speed.set_ylabel("deletions per second (log scale)")
    speed.legend(frameon=False, fontsize=9)
    memory.margins(y=0.12)
    memory.set_ylabel("peak memory, MB")
    figure.suptitle(f"Single deletions: engine and plain transformers\n{where(rows[0])}", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_shares(rows: Rows, path: Path) -> None:
    """Where the time of a whole screen goes."""
    r = next(r for r in rows if r["benchmark"] == "overhead")
    figure, axes = plt.subplots(figsize=(9, 2.4), constrained_layout=True)
    left = 0.0
    for name, colour in zip(SHARES, plt.get_cmap("tab10").colors, strict=False):  # type: ignore[attr-defined]
        value = max(float(r[f"{name}_share"]), 0.0)
        axes.barh(0, value, left=left, color=colour, label=f"{name.replace('_', ' ')} {value:.2%}")
        left += value
    axes.set_xlim(0, max(left, 1))
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    title = f"Time of a whole screen: {r['model']}, {r['lists']} deletions in {r['tokens']}-token cells, {r['dtype']}"
    axes.set_title(f"{title}\n{where(r)}", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw(results: Path = RESULTS, docs: Path = DOCS) -> None:
    """Draw the plots into docs/img and write the tables between the marks of docs/benchmarks.md."""
    mpl.use("Agg")
    parts = []
    for device, rows in newest(read(results)).items():
        (docs / "img").mkdir(exist_ok=True)
        plot_bars(rows, docs / "img" / f"bench-speed-{device}.png")
        plot_shares(rows, docs / "img" / f"bench-shares-{device}.png")
        parts.append(f"### {where(max(rows, key=lambda r: r['date']))}\n\n{markdown(rows)}\n")
        parts.append(f"![Speed and memory](img/bench-speed-{device}.png)\n")
        parts.append(f"![Shares of a run](img/bench-shares-{device}.png)\n")
    page = docs / "benchmarks.md"
    before, rest = page.read_text().split(BEGIN)
    body = "\n".join(parts) or "No full run is recorded yet.\n"
    page.write_text(f"{before}{BEGIN}\n\n{body}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    args = parser.parse_args()
    draw(args.csv, args.docs)
