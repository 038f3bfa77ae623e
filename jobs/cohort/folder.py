"""The folder of a study: which file holds what, and study.json, which says what was asked and of which cells and model.

A step is done where its file is there, because files appear whole; nothing else records progress.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rankshift.jobs.cohort.options import Study
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.entries import Unfit, take, typed
from rankshift.screen.files.json_file import read_object
from rankshift.screen.study.gate import Gate

MANIFEST = "study.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What a study was made of. cells_sha256: of lists, labels and donors; weights_sha256: of the pretrained bundle."""

    cells: str
    cells_sha256: str
    bundle: str
    weights_sha256: str


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Folder:
    """A study on disk: what was asked, of what, and its places."""

    path: Path
    study: Study
    source: Source
    made_by: str

    @staticmethod
    def open(path: Path | str) -> "Folder":
        """The study at a path; raises InputError where there is none that can be read."""
        path = Path(path)
        place = path / MANIFEST
        if not place.exists():
            raise InputError(f"{path} is not a study (no {MANIFEST}): give the --out of rankshift study")
        found = read_object(place, f"give another --out, or remove {path}")
        version = found.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise InputError(
                f"{path} has schema {version!s:.40}, this version reads {SCHEMA_VERSION}: use the version that wrote it"
            )
        try:
            asked = take(found, "asked", dict)
            known = {field.name: asked[field.name] for field in fields(Study) if field.name in asked}
            for name in ("alt", "batch", "balance", "arms"):
                known[name] = tuple(take(asked, name, list, []))
            return Folder(
                path=path,
                study=Study(**known),
                source=typed(Source, found, "source"),
                made_by=take(found, "made_by", str, ""),
            )
        except (Unfit, TypeError) as error:
            raise InputError(f"{place} is no manifest of a study ({error}): start the study again") from error

    def write(self) -> None:
        """Write study.json, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        said = {
            "schema_version": SCHEMA_VERSION,
            "asked": self.study.record,
            "source": asdict(self.source),
            "made_by": self.made_by,
        }
        with replacing(self.path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(said, indent=2) + "\n")

    @property
    def cells(self) -> Path:
        """Table of the cells that were drawn: cell_id, donor, label, fold, role."""
        return self.path / "cells.parquet"

    @property
    def audit(self) -> Path:
        """What was found before anything was computed."""
        return self.path / "audit.json"

    @property
    def genes(self) -> Path:
        """Of a study of listed genes: the list and its controls."""
        return self.path / "genes.parquet"

    @property
    def gate(self) -> Path:
        """Can the classifier tell the states apart in donors that it has not seen?"""
        return self.path / "gate.json"

    @property
    def idle(self) -> Path:
        """What an edit that changes nothing gave."""
        return self.path / "idle.json"

    @property
    def donors(self) -> Path:
        """Table of values: a row per gene, arm and donor."""
        return self.path / "donors.parquet"

    @property
    def null(self) -> Path:
        """Effects of the genes that the judged ones were held against."""
        return self.path / "null.parquet"

    @property
    def summary(self) -> Path:
        """What holds for all verdicts."""
        return self.path / "summary.json"

    @property
    def verdicts(self) -> Path:
        """Table of verdicts: a row per gene."""
        return self.path / "verdicts.parquet"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    def tokens(self, fold: int) -> Path:
        """Token table of a fold: what its model learns from, what it screens, and the cells of its states."""
        return self.path / "folds" / str(fold) / "tokens.parquet"

    def bundle(self, fold: int) -> Path:
        """The model that has seen no donor of this fold."""
        return self.path / "folds" / str(fold) / "bundle"

    def states(self, fold: int) -> Path:
        """State vectors by that model."""
        return self.path / "folds" / str(fold) / "states.json"

    def run(self, fold: int, arm: str) -> Path:
        """The screen of the fold's donors by that model."""
        return self.path / "runs" / f"fold{fold}_{arm}"

    def runs(self) -> Iterator[tuple[int, str, Path]]:
        """Fold, arm and folder of every screen that is there."""
        for fold in range(self.study.folds):
            for arm in self.study.arms:
                if self.run(fold, arm).exists():
                    yield fold, arm, self.run(fold, arm)


def read_gate(folder: Folder) -> Gate:
    """What gate.json says."""
    return Gate(**read_object(folder.gate, "remove it, and continue the study with --resume"))
