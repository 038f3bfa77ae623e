"""The run folder: manifest, cells, perturbations, committed parts, and SQL over them. Readers see committed parts only."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.object_store import Mirror
from rankshift.screen.runs.shards import committed, committed_names
from rankshift.screen.runs.sql import ask, connected, refusal
from rankshift.screen.runs.views import EMPTY_PART, views_of

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    from anndata import AnnData
    from plotly.graph_objects import Figure

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class Run:
    """A run on disk. `path` is the folder, `manifest` what run.json says; `mirror` is set where the folder mirrors a URL."""

    path: Path
    manifest: dict[str, Any]
    mirror: Mirror | None = None

    @staticmethod
    def open(place: Path | str) -> "Run":
        """Open the run at a path or a URL; raises InputError when it is none or was written by another schema.

        Of a URL, manifest, cells and perturbations are fetched at once, and parts when `committed` is asked.
        """
        mirror = Mirror.of(place)
        if mirror is not None:
            _fetch(mirror)
        path = Path(place) if mirror is None else mirror.local
        try:
            manifest = json.loads((path / "run.json").read_text())
        except FileNotFoundError as e:
            raise InputError(f"{path} is not a run folder (no run.json): give the --out of a screen") from e
        except (OSError, json.JSONDecodeError) as e:
            raise InputError(f"{path / 'run.json'} cannot be read ({e}): run the screen again") from e
        if manifest.get("schema_version") != SCHEMA_VERSION:
            found = manifest.get("schema_version")
            raise InputError(
                f"{path} has schema {found}, this version reads {SCHEMA_VERSION}: use the version that wrote it"
            )
        return Run(path, manifest, mirror)

    @property
    def place(self) -> str:
        """Where the run is, for any process of any machine: its URL, or its absolute path."""
        return str(self.path.resolve()) if self.mirror is None else self.mirror.url

    def share(self, *names: str) -> None:
        """Put files just written to the run's folder where the run is, in this order; a path has them already."""
        if self.mirror is not None:
            for name in names:
                self.mirror.push([name])

    def record(self, **entries: Any) -> "Run":
        """The run with entries added to its manifest, written at once."""
        manifest = {**self.manifest, **entries}
        with replacing(self.path / "run.json") as temporary:
            temporary.write_text(json.dumps(manifest, indent=2))
        self.share("run.json")
        return Run(self.path, manifest, self.mirror)

    @property
    def states(self) -> list[str]:
        """State names in the order of their columns."""
        return list(self.manifest["states"])

    @property
    def committed(self) -> dict[str, dict]:
        """Marker of every committed shard by name; their parts are at hand."""
        if self.mirror is not None:
            objects = self.mirror.objects()
            done = {Path(name).stem for name in objects if name.startswith("commits/")}
            self.mirror.pull({n: info for n, info in objects.items() if n.count("/") == 0 or Path(n).stem in done})
            return {name: marker for name, marker in committed(self.path).items() if name in done}
        return committed(self.path)

    @property
    def done(self) -> set[str]:
        """Names of the committed shards, without reading them."""
        if self.mirror is not None:
            return {Path(name).stem for name in self.mirror.objects("commits")}
        return committed_names(self.path)

    @property
    def complete(self) -> bool:
        """Are all shards committed?"""
        return len(self.done) == self.manifest["shards"]

    @property
    def views(self) -> str:
        """CREATE VIEW statements for any DuckDB, over what is committed now (module `views`)."""
        return views_of(self)

    def holds(self, path: Path) -> bool:
        """Would a file at `path` lie in the run folder, whatever links lead there?"""
        own, there = self.path.resolve(), Path(path).resolve()
        return own == there or own in there.parents

    def connect(
        self, others: Mapping[str, "Run"] | None = None, tables: Mapping[str, Path] | None = None
    ) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """An in-memory DuckDB with the views, that can read these runs and tables and write nothing."""
        return connected(self, others or {}, tables or {})

    def frame(self, query: str) -> "pd.DataFrame":
        """Rows of one SQL query as a pandas data frame; `polars.from_arrow(run.sql(query))` makes one of polars."""
        return self.sql(query).to_pandas()

    def annotate(
        self,
        adata: "AnnData",
        perturbations: Sequence[str] = (),
        measures: Sequence[str] | None = None,
        key: str = "rankshift",
    ) -> None:
        """Write results into the AnnData the cells came from: obs columns of the perturbations named, uns[key] of all.

        See `annotated.annotate`.
        """
        from rankshift.screen.runs.annotate import annotate

        annotate(self, adata, perturbations, measures, key)

    def sql(
        self, query: str, *, tables: Mapping[str, Path | str] | None = None, **others: "Run | Path | str"
    ) -> pa.Table:
        """Rows of one SQL query over the views; raises InputError on SQL that fails or would change anything.

        The views are those of docs/sql.md: `shifts(cell_id, perturbation, kind, gene_ids, symbols, similarity, cell_cosine,
        cos_before_<state>, shift_<state>, …)`, `cells`, `perturbations`, `hits` and more. Of `others`, runs or their folders,
        the views are in schemas of their names; `tables` are files (.csv, .tsv, .parquet, .json) to join.

        >>> run.sql("SELECT * FROM hits JOIN up.hits USING (gene_ids)", up="runs/overexpress")  # doctest: +SKIP
        """
        runs = {name: other if isinstance(other, Run) else Run.open(Path(other)) for name, other in others.items()}
        with self.connect(runs, {name: Path(file) for name, file in (tables or {}).items()}) as connection:
            try:
                return ask(connection, query, self, runs).to_arrow_table()
            except duckdb.Error as error:
                raise refusal(error, query, self, runs) from error

    # Figures for notebooks, the same as in the report; `judging` by name: by, min_cells, bootstrap, seed (stats.Judging).

    def plot_volcano(self, **judging: Any) -> "Figure":
        """How far each perturbation moves the cells against how sure that is."""
        from rankshift.screen.report import figures

        return figures.volcano(self, **judging)

    def plot_gene(self, gene: str, *, by: str | None = None) -> "Figure":
        """The effect of perturbing `gene` (symbol or Ensembl id) in every cell, apart for the values of the obs column `by`."""
        from rankshift.screen.report import figures

        return figures.gene(self, gene, by=by)

    def plot_states(self, genes: Sequence[str] | None = None, **options: Any) -> "Figure":
        """The states and where `genes` (None: the strongest) push the cells; options bundle, cells, embed."""
        from rankshift.screen.report import figures

        return figures.states(self, genes, **options)

    def plot_effects_network(self, **judging: Any) -> "Figure":
        """The strongest perturbations and the genes they move most; needs gene shifts."""
        from rankshift.screen.report import figures

        return figures.effects_network(self, **judging)

    def plot_noise_floor(self, **judging: Any) -> "Figure":
        """The strongest effects beside the run's own numerical noise."""
        from rankshift.screen.report import figures

        return figures.noise_floor(self, **judging)


def _fetch(mirror: Mirror) -> None:
    """Bring manifest, cells and names of a run to its mirror; a mirror of another run that was there before is dropped."""
    manifest, here = mirror.read("run.json"), mirror.local / "run.json"
    if manifest is None:
        raise InputError(f"{mirror.url} is not a run (no run.json): give the --out of a screen")
    if here.exists() and json.loads(here.read_text()).get("id") != json.loads(manifest).get("id"):
        mirror.drop()
    objects = mirror.objects()
    mirror.pull({n: info for n, info in objects.items() if n.count("/") == 0 or Path(n).stem == EMPTY_PART})
