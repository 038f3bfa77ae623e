"""`TranscriptomeTokenizer` with the published options, writing `.dataset` folders.

Counts are ranked as `rankshift tokenize` does; a dictionary of medians and tokens must be given, none is shipped.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.compat.inputs import (
    PathLike,
    count,
    deviates,
    dictionary_file,
    generation,
    logger,
    one_of,
    output_file,
    token_file,
)
from rankshift.screen.cells.dataset_folder import write_dataset
from rankshift.screen.errors import InputError
from rankshift.screen.extras import installed
from rankshift.screen.files.foreign import read_mapping
from rankshift.screen.genes.framing import FrameTokens
from rankshift.screen.genes.vocabulary import Vocabulary, plain_id, read_vocabulary
from rankshift.screen.tokenizer.tokenize import TokenizeReport, tokenize

TAKEN = ("input_ids", "length")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lists:
    """The vocabulary of a tokenizer, and how its lists are framed and cut (a `Tokens` without a model)."""

    path: Path
    vocabulary: Vocabulary
    frame_tokens: FrameTokens
    input_size: int
    aliases: Mapping[str, str]


@dataclass
class TranscriptomeTokenizer:
    """Rank value encoding with the published options (PS 1).

    Without effect here: nproc, chunk_size. gene_mapping_file None maps every id to itself. use_h5ad_index: the ids are the
    names of var, not its column ensembl_id; False finds the ids wherever they are. min_mapped, our own: the least share of a
    file's genes that must be in the dictionary.
    """

    custom_attr_name_dict: Mapping[str, str] | None = None
    nproc: int = 1
    chunk_size: int = 512
    model_input_size: int = 4096
    special_token: bool = True
    collapse_gene_ids: bool = True
    gene_median_file: PathLike | None = None
    token_dictionary_file: PathLike | None = None
    gene_mapping_file: PathLike | None = None
    _: KW_ONLY
    use_h5ad_index: bool = False
    keep_counts: bool = False
    model_version: str | None = None
    min_mapped: float = 0.1

    def __post_init__(self) -> None:
        for name in ("nproc", "chunk_size", "model_input_size"):
            count(name, getattr(self, name))
        if self.model_version == "V1":  # as later releases of the published package do
            self.special_token, self.model_input_size = False, min(self.model_input_size, 2048)
        columns = self.custom_attr_name_dict or {}
        wrong = [new for new in columns.values() if new in TAKEN] or [
            new for new in columns.values() if list(columns.values()).count(new) > 1
        ]
        if wrong:
            raise InputError(f"custom_attr_name_dict names a column {wrong[0]!r}, which is taken: choose another name")
        if self.keep_counts:
            raise InputError(
                "keep_counts=True is not here: set it False; the counts stay in their file, cells in its order"
            )
        if not self.collapse_gene_ids:
            deviates("collapse_gene_ids=False: counts of columns that are one gene are added up all the same")
        self._lists = self._read()

    def tokenize_data(
        self,
        data_directory: PathLike,
        output_directory: PathLike,
        output_prefix: str,
        file_format: str = "loom",
        input_identifier: str = "",
        use_generator: bool = False,
    ) -> None:
        """Tokenize every .loom, .h5ad or .zarr file of a folder into {output_directory}/{output_prefix}.dataset.

        Files are taken by name, cells in file order. input_identifier: take those whose name contains it. use_generator has
        no effect: memory does not grow with the cells.
        """
        one_of("file_format", file_format, ("loom", "h5ad", "zarr"))
        if not isinstance(input_identifier, str):
            raise InputError(f"input_identifier is {input_identifier!r}: give a part of the names of the files")
        there = sorted(Path(data_directory).glob(f"*.{file_format}"))
        files = [path for path in there if input_identifier in path.stem]
        if not there:
            raise InputError(f"{data_directory} holds no .{file_format} file: give the folder of the count matrices")
        if not files:
            names = ", ".join(path.name for path in there[:10])
            raise InputError(f"no file of {data_directory} has {input_identifier!r} in its name: there are {names}")
        folder = output_file(output_directory, output_prefix, ".dataset")
        columns = dict(self.custom_attr_name_dict or {})
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rankshift-", dir=folder.parent) as place:
            table = Path(place) / "cells.parquet"
            report = tokenize(
                files,
                self._lists,
                table,
                keep=list(columns),
                input_size=self.model_input_size,
                min_mapped=self.min_mapped,
                gene_column=self._gene_column(file_format),
            )
            cells = write_dataset(table, folder, columns)
        self._tell(report)
        logger.info("%s: %d cells", folder, cells)

    def tokenize_anndata(
        self, adata_file_path: Any, target_sum: float = 10_000, file_format: str = "h5ad"
    ) -> tuple[list[np.ndarray], dict[str, list] | None, list]:
        """Rank lists of the cells of an .h5ad or .zarr file, or of an AnnData: without special tokens, and not cut.

        Returns (lists, {dataset column: values} or None, []), the three of later releases; the last would be counts. The
        target sum has no effect: ranks do not depend on it.
        """
        one_of("file_format", file_format, ("h5ad", "zarr"))
        return self._ranked(adata_file_path, self._gene_column(file_format))

    def tokenize_loom(
        self, loom_file_path: PathLike, target_sum: float = 10_000, file_format: str = "loom"
    ) -> tuple[list[np.ndarray], dict[str, list] | None, list]:
        """As `tokenize_anndata`, of a .loom file."""
        one_of("file_format", file_format, ("loom",))
        return self._ranked(loom_file_path, None)

    def create_dataset(
        self,
        tokenized_cells: Sequence[Any],
        cell_metadata: Mapping[str, Sequence[Any]] | None,
        tokenized_counts: Sequence[Any] | None = None,
        use_generator: bool = False,
    ) -> Any:
        """A Dataset of lists from `tokenize_anndata`: cut to model_input_size and framed, with their length and metadata."""
        if tokenized_counts:
            raise InputError(
                "tokenized_counts is not taken here: leave it out, or give the empty list of tokenize_anndata"
            )
        if not installed("datasets"):
            raise InputError(
                "create_dataset needs datasets, which is not installed: pip install datasets, or tokenize_data"
            )
        # Late: only this method needs it, and takes its second.
        from datasets import Dataset

        around = self._lists.frame_tokens
        room = around.frame.room(self.model_input_size)
        lists = [[*around.head, *np.asarray(ids)[:room].tolist(), *around.tail] for ids in tokenized_cells]
        columns = {name: list(values) for name, values in (cell_metadata or {}).items()}
        return Dataset.from_dict({"input_ids": lists, **columns, "length": [len(ids) for ids in lists]})

    def _gene_column(self, file_format: str) -> str | None:
        """The column of var with the ids; None for the first that matches."""
        return "index" if self.use_h5ad_index and file_format != "loom" else None

    def _ranked(self, source: Any, column: str | None) -> tuple[list[np.ndarray], dict[str, list] | None, list]:
        columns = dict(self.custom_attr_name_dict or {})
        lists: list[np.ndarray] = []
        values: dict[str, list] = {new: [] for new in columns.values()}

        def take(ids: np.ndarray, ends: np.ndarray, obs: pa.Table, whole: tuple[np.ndarray, np.ndarray] | None) -> None:
            assert whole is not None
            lists.extend(np.split(whole[0], np.cumsum(whole[1])[:-1]))
            for old, new in columns.items():
                values[new] += obs.column(old).to_pylist()

        report = tokenize(
            Path(source) if isinstance(source, str | Path) else source,
            self._lists,
            take,
            keep=list(columns),
            input_size=self.model_input_size,
            min_mapped=self.min_mapped,
            gene_column=column,
            keep_uncropped=True,
        )
        self._tell(report)
        return lists, values if columns else None, []

    def _read(self) -> _Lists:
        tokens = token_file(self.token_dictionary_file)
        medians = dictionary_file(
            "gene_median_file", self.gene_median_file, "gene_median_dictionary_….pkl, {gene: median},"
        )
        vocabulary = read_vocabulary(tokens, medians)
        generation(self.model_version, vocabulary)
        around = vocabulary.frame_tokens
        if self.special_token and not around.head:
            raise InputError(
                f"special_token is True, {tokens} has no <cls>: set special_token=False for this generation"
            )
        aliases = {}
        if self.gene_mapping_file is not None:
            known = vocabulary.by_id
            pairs = ((plain_id(a), plain_id(str(g))) for a, g in read_mapping(Path(self.gene_mapping_file)).items())
            aliases = {alias: gene for alias, gene in pairs if gene in known and alias != gene}
        return _Lists(
            path=tokens,
            vocabulary=vocabulary,
            frame_tokens=around if self.special_token else FrameTokens(),
            input_size=self.model_input_size,
            aliases=aliases,
        )

    @staticmethod
    def _tell(report: TokenizeReport) -> None:
        logger.info(str(report))
        dropped = [f"{n} cells ({why})" for why, n in report.dropped.items() if n and why != "filter_pass is not 1"]
        if dropped:
            deviates(f"left out, where the published code writes empty or arbitrary lists: {', '.join(dropped)}")
        summed = [file.path.name for file in report.files if "summed" in file.totals]
        if summed:
            deviates(f"no n_counts in {', '.join(summed)}: cell totals are summed over all genes of the file")
