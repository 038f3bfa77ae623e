"""A run that answers SQL over what is committed. It draws nothing; for figures and AnnData see `notebook.Run`."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.genes.vocabulary import plain_id
from rankshift.screen.runs.folder import RunFolder
from rankshift.screen.runs.sql import ask, connected, refusal
from rankshift.screen.runs.views import views_of

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


@dataclass(frozen=True, eq=False)
class Run(RunFolder):
    """A run folder and its answers."""

    @property
    def views(self) -> str:
        """CREATE VIEW statements for any DuckDB, over what is committed now (module `views`)."""
        return views_of(self)

    def connect(
        self, others: Mapping[str, "Run"] | None = None, tables: Mapping[str, Path] | None = None
    ) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """An in-memory DuckDB with the views, that can read these runs and tables and write nothing."""
        return connected(self, others or {}, tables or {})

    def perturbation(self, name: str) -> int:
        """The number of a perturbation by symbols or Ensembl ids in any case, of several joined by + in any order.

        What is written exactly so counts first. Raises InputError on a name that the run has not, with the nearest it has.

        >>> run.perturbation("lyz")  # doctest: +SKIP
        17
        """
        table = self.sql("SELECT perturbation, symbols, gene_ids FROM perturbations ORDER BY perturbation")
        numbers, symbols, ids = (table[column].to_pylist() for column in ("perturbation", "symbols", "gene_ids"))
        for write in (str, _folded):
            wanted = write(name)
            for number, *names in zip(numbers, symbols, ids, strict=True):
                if wanted in [write(known) for known in names]:
                    return int(number)
        written = {_folded(known): known for names in (ids, symbols) for known in names}
        near = get_close_matches(_folded(name), written, n=1)
        fix = f"did you mean {written[near[0]]}?" if near else "give a symbol or an Ensembl id it screened"
        raise InputError(f"{self.path} has no perturbation {name!r}: {fix}")

    def finished(self, name: str) -> int:
        """The number of a perturbation whose cells are all measured; raises InputError of one that is estimated or untested."""
        number = self.perturbation(name)
        if self.partial:
            found = self.sql(f"SELECT state, measured, cells FROM answers WHERE perturbation = {number}").to_pylist()[0]
            if found["state"] != "finished":
                seen = f" from {found['measured']} of {found['cells']} cells" if found["state"] == "estimated" else ""
                raise InputError(
                    f"{name} is {found['state']} in {self.path}{seen}: ask the view answers, or measure the rest with "
                    f"rankshift resume {self.path} --continue-full"
                )
        return number

    def frame(self, query: str) -> "pd.DataFrame":
        """Rows of one SQL query as a pandas data frame; `polars.from_arrow(run.sql(query))` makes one of polars."""
        return self.sql(query).to_pandas()

    def sql(
        self, query: str, *, tables: Mapping[str, Path | str] | None = None, **others: "Run | Path | str"
    ) -> pa.Table:
        """Rows of one SQL query over the views; raises InputError on SQL that fails or would change anything.

        The views are described in docs/sql.md: `shifts(cell_id, perturbation, kind, gene_ids, symbols, similarity, cell_cosine,
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


def _folded(name: str) -> str:
    return "+".join(sorted(plain_id(part) for part in name.split("+")))
