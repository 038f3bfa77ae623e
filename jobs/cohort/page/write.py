"""Writes the page of a study from its tables; what a study has not come to is left out, and the page says why.

Every number is that of a table in the folder of the study. Pictures are drawn by the page itself, so that it stays small.
"""

import math
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.jobs.cohort.folder import Folder, read_gate
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.json_file import read_object
from rankshift.screen.report.page import ASSETS, embedded
from rankshift.screen.study.vocabulary import CALLS, DEFINITIONS, Verdict

HERE = Path(__file__).parent
CLOUD = 5000  # genes in the picture of both arms at most, the strongest and those with a verdict of their own
UNJUDGED = (str(Verdict.NOT_ESTIMABLE), str(Verdict.NOT_RUN))
SHOWN = (  # columns of the table of verdicts, and their titles
    ("symbol", "gene"), ("verdict", "verdict"), ("effect", "effect"), ("effect_low", "low"), ("effect_high", "high"),
    ("adjusted_p_value", "adjusted p"), ("donors", "donors"), ("cells", "cells"), ("detectable", "detectable"),
    ("without_one_donor", "without one donor"), ("without_one_fold", "without one fold"), ("coherent", "coherent"),
    ("technical_class", "technical"), ("leaks_from", "leaks from"), ("why", "why"), ("gene_id", "Ensembl id"),
)  # fmt: skip


def write_page(folder: Folder, out: Path | None = None) -> None:
    """Write the page of a study, by default as its report.html. Raises InputError where it has not come to its gate."""
    # start-up time: a study that is asked in SQL needs no templates
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    if out is not None and out.suffix not in (".html", ".htm"):
        raise InputError(f"--out {out} is no .html: give a name that ends in .html")
    if not folder.gate.exists():
        raise InputError(f"{folder.path} has not come to its gate: continue the study with --resume")
    study, gate = folder.study, read_gate(folder)
    fold = dict(zip(*(pq.read_table(folder.cells)[name].to_pylist() for name in ("donor", "fold")), strict=True))
    data = _data(folder) if folder.verdicts.exists() else None
    sections = [("audit", "Audit"), ("gate", "Gate")]
    sections += [("verdicts", "Verdicts"), ("gene", "Gene"), ("cloud", "Arms")] if data else []
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template("study.html").render(
        title=f"{study.start} to {study.goal}: what moves the cells of {len(fold)} donors",
        version=version("rankshift"),
        sections=[*sections, ("provenance", "Provenance")],
        answer=_answer(folder, data),
        audit="\n".join(read_object(folder.audit).get("lines", [])),
        gate="\n".join(gate.lines()),
        gate_donors=[(donor, fold.get(donor, ""), f"{value:.3f}") for donor, value in gate.donors.items()],
        definitions=[(word.value, meaning) for word, meaning in DEFINITIONS.items()],
        cloud=_cloud_sentence(folder),
        provenance=_provenance(folder),
        data=Markup(embedded(data)) if data else None,
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "study.js").read_text(encoding="utf-8")),
    )
    with replacing(out or folder.report) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _answer(folder: Folder, data: dict[str, Any] | None) -> list[str]:
    gate, audit = read_gate(folder), read_object(folder.audit)
    lines = [f"CONFOUNDED: {line}." for line in audit.get("confounded", [])]
    if data is None:
        return [
            "The models cannot tell the states apart in donors that they have not seen, so nothing was perturbed: what they "
            "would say of single genes has no ground.",
            *lines,
        ]
    at = [column["name"] for column in data["columns"]].index("verdict")
    count = Counter(row[at] for row in data["rows"])
    said = ", ".join(f"{n:,} {word}" for word, n in sorted(count.items(), key=lambda pair: -pair[1]))
    lines.append(f"All verdicts: {said}.")
    if not gate.passed:
        lines.append(
            "The gate was not passed: the models cannot tell the states apart, and the study went on all the same."
        )
    lines.append("A verdict says what these models make of these donors' cells; it is a proposal for an experiment.")
    calls = sum(count[word.value] for word in CALLS)
    return [
        f"{calls:,} of {len(data['rows']):,} genes have an effect that holds over donors, folds and both arms.",
        *lines,
    ]


def _data(folder: Folder) -> dict[str, Any]:
    """What the page draws: the table of verdicts, the values of donors by gene and arm, the mean of both arms."""
    table = pq.read_table(folder.verdicts)
    rows = [[_plain(row[name]) for name, _ in SHOWN] for row in table.to_pylist()]
    donors = pq.read_table(folder.donors)
    who = sorted(set(zip(donors["fold"].to_pylist(), donors["donor"].to_pylist(), strict=True)))
    place = {donor: i for i, (_, donor) in enumerate(who)}
    arms = list(folder.study.arms)
    values: dict[str, list[list[Any]]] = {}
    for row in donors.to_pylist():
        found = values.setdefault(row["gene_id"], [[None] * len(who) for _ in arms])
        found[arms.index(row["arm"])][place[row["donor"]]] = [_plain(row["shift"]), row["cells"]]
    listed = table["gene_id"].to_pylist()
    return {
        "columns": [
            {"name": name, "title": title, "meaning": _meaning(table, name), "text": not _numeric(table, name)}
            for name, title in SHOWN
        ],
        "rows": rows,
        "donors": [[donor, fold] for fold, donor in who],
        "arms": arms,
        "values": {gene: values[gene] for gene in listed if gene in values},
        "cloud": _cloud(folder, table) if len(arms) == 2 else [],
    }


def _meaning(table: Any, name: str) -> str:
    """What a column says, with its unit, from the metadata of the file."""
    told = {key.decode(): text.decode() for key, text in (table.schema.field(name).metadata or {}).items()}
    unit = f" ({told['unit']})" if told.get("unit") else ""
    return told.get("meaning", "") + unit


def _numeric(table: Any, name: str) -> bool:
    kind = str(table.schema.field(name).type)
    return kind.startswith(("int", "float", "double", "uint"))


def _cloud(folder: Folder, table: pa.Table) -> list[list[Any]]:
    """[row of the table or None for a control, effect in the first arm, in the second, name] of genes that could be judged."""
    names = [f"{arm}_effect" for arm in folder.study.arms]
    judged = [(i, row) for i, row in enumerate(table.to_pylist()) if row["verdict"] not in UNJUDGED]
    there = {row["gene_id"] for _, row in judged}
    others = [(None, row) for row in pq.read_table(folder.null).to_pylist() if row["gene_id"] not in there]
    out = [
        [number, *(_plain(row[name]) for name in names), row["symbol"] or row["gene_id"]]
        for number, row in [*judged, *others]
        if all(row[name] is not None for name in names)
    ]
    out.sort(key=lambda point: -max(abs(point[1]), abs(point[2])))
    return out[:CLOUD]


def _cloud_sentence(folder: Folder) -> str:
    if len(folder.study.arms) < 2:
        return "One arm was run, so there is nothing to hold it against."
    return (
        "A point is a gene that could be judged: its shift in either arm, adjusted by matched genes, the centre over donors. "
        "Genes without an effect often lie along a falling line, because deletion and overexpression of any gene tend to point "
        "in opposite ways: opposite signs are no evidence, only the distance from the cloud is."
    )


def _provenance(folder: Folder) -> dict[str, str]:
    study, source = folder.study, folder.source
    idle = read_object(folder.idle) if folder.idle.exists() else None
    facts = {
        "cells": source.cells,
        "pretrained bundle": f"{source.bundle} ({source.weights_sha256[:12]})",
        "made by": f"rankshift {folder.made_by}",
        "folder": str(folder.path.resolve()),
    }
    if idle is not None:
        facts["edits that change nothing"] = f"{idle['edits']}, largest shift {idle['largest']:g}"
    given = {name: value for name, value in study.record.items() if value not in (None, [], False)}
    return facts | {
        name.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in given.items()
    }


def _plain(value: Any) -> Any:
    """What JSON has a word for, numbers to six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
