"""Labels of genes: classes given as lists of genes, found in the vocabulary and in the cells.

A gene has one class. Genes that the vocabulary lacks are named, never dropped in silence.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankshift.jobs.finetuning.labels.labels import NONE, Task, check_classes
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.files.foreign import fields
from rankshift.screen.files.json_file import read_json
from rankshift.screen.files.text_file import read_text, readable
from rankshift.screen.genes.vocabulary import Vocabulary

NAMED = 10  # unknown genes that a note spells out


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class GeneLabels:
    """Classes of genes. tokens: int64 (genes,), those of a class that occur in the cells, rising. values: (genes,), ids."""

    task: Task
    tokens: np.ndarray
    values: np.ndarray
    notes: tuple[str, ...] = ()

    def of_tokens(self, size: int, chosen: np.ndarray) -> np.ndarray:
        """int64 (size,): class id by token for the `chosen` genes (numbers into `tokens`), NONE elsewhere."""
        table = np.full(size, NONE, np.int64)
        table[self.tokens[chosen]] = self.values[chosen]
        return table


def read_classes(path: Path) -> dict[str, list[str]]:
    """{class: [genes]} from a .json of that form, or from a .csv or .tsv with the columns gene and class."""
    path = readable(Path(path))
    if path.suffix.lower() == ".json":
        content = read_json(path)
        if not isinstance(content, dict) or not all(isinstance(genes, list) for genes in content.values()):
            raise InputError(f"{path} is not {{class: [genes]}}: give an object of lists")
        return {str(name): [str(gene) for gene in genes] for name, genes in content.items()}
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise InputError(f"--genes {path} is neither .json nor .csv nor .tsv: give {{class: [genes]}} or gene,class")
    classes: dict[str, list[str]] = {}
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    for line, row in enumerate(fields(read_text(path), path, delimiter), 1):
        if not row or (line == 1 and [field.strip().lower() for field in row][1:] == ["class"]):
            continue
        if len(row) != 2:
            raise InputError(f"{path} line {line} has {len(row)} columns: give two, gene and class")
        classes.setdefault(row[1].strip(), []).append(row[0].strip())
    return classes


def gene_labels(
    cells: Cells,
    rows: np.ndarray,
    classes: Mapping[str, Iterable[str]],
    vocabulary: Vocabulary,
    aliases: Mapping[str, str],
) -> GeneLabels:
    """Labels of the genes that occur in these rows of the token table; ids, symbols and aliases are understood."""
    names = tuple(sorted(classes))
    of: dict[int, int] = {}
    unknown: list[str] = []
    for at, name in enumerate(names):
        for gene in classes[name]:
            token = vocabulary.token_of(aliases.get(gene.upper(), gene))
            if token is None:
                unknown.append(gene)
            elif of.setdefault(token, at) != at:
                raise InputError(f"gene {gene} is in class {names[of[token]]!r} and in {name!r}: a gene has one class")
    there = np.zeros(vocabulary.size, bool)
    for row in rows:
        there[cells.ids_of(int(row))] = True
    tokens = np.array(sorted(token for token in of if there[token]), np.int64)
    notes = []
    if unknown:
        more = ", …" if len(unknown) > NAMED else ""
        notes.append(f"{len(unknown)} genes are not in the vocabulary: {', '.join(unknown[:NAMED])}{more}")
    if len(tokens) < len(of):
        absent = [vocabulary.symbol[t] or vocabulary.ensembl_id[t] for t in sorted(of) if not there[t]]
        more = ", …" if len(absent) > NAMED else ""
        notes.append(f"{len(absent)} genes are in none of the cells: {', '.join(absent[:NAMED])}{more}")
    if not len(tokens):
        raise InputError(
            f"none of the {len(of) + len(unknown)} genes of --genes is in the cells: check ids and vocabulary"
        )
    values = np.array([of[int(token)] for token in tokens], np.int64)
    task = Task(name="genes", classes=names)
    check_classes(task, values, "genes in the cells")
    return GeneLabels(task=task, tokens=tokens, values=values, notes=tuple(notes))
