"""`EmbExtractor` with the published options: embeddings of cells, genes and cell states, and pictures of them."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch

from rankshift.compat.inputs import (
    PathLike,
    count,
    deviates,
    framing,
    generation,
    lists,
    logger,
    matching,
    model_type,
    one_of,
    output_file,
    states_of,
    token_file,
    workplace,
)
from rankshift.jobs.show.colouring import PALETTE, Colouring
from rankshift.jobs.show.embedding_map import draw_map
from rankshift.jobs.show.heat_map import draw_heat_map, sample
from rankshift.jobs.verbs.export import write_pickle
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import label_meant, labels_of
from rankshift.screen.cells.select import select
from rankshift.screen.embed.cell_embeddings import embed
from rankshift.screen.embed.gene_embeddings import gene_medians, gene_sums
from rankshift.screen.embed.states import summarise
from rankshift.screen.encoder.device import TOKEN_BUDGET, default_device
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import measured_layers
from rankshift.screen.files.atomic import replacing
from rankshift.screen.genes.vocabulary import read_vocabulary

KEYWORDS = {"umap": ("size", "palette"), "heatmap": ("cmap",)}  # keys of kwargs_dict that have an effect
SUMMARIES = (None, "mean", "median", "exact_mean", "exact_median")


@dataclass
class EmbExtractor:
    """Embeddings with the published options (docs/migrating.md has a table of them).

    Without effect here: num_classes, cell_emb_style, gene_emb_style, forward_batch_size, nproc. Summaries named mean and
    median are exact, too. Our own: dtype of matrix products; substring_states, to collect the cells of a
    state as the published code does, whose label is any part of the state's name (PS B4).
    """

    model_type: str = "Pretrained"
    num_classes: int = 0
    emb_mode: str = "cls"
    cell_emb_style: str = "mean_pool"
    gene_emb_style: str = "mean_pool"
    filter_data: Mapping[str, Any] | None = None
    max_ncells: int | None = 1000
    emb_layer: int = -1
    emb_label: Sequence[str] | None = None
    labels_to_plot: Sequence[str] | None = None
    forward_batch_size: int = 100
    nproc: int = 4
    summary_stat: str | None = None
    token_dictionary_file: PathLike | None = None
    _: KW_ONLY
    save_tdigest: bool = False
    model_version: str | None = None
    dtype: str = "float32"
    substring_states: bool = False

    def __post_init__(self) -> None:
        self._check()

    def extract_embs(
        self,
        model_directory: PathLike,
        input_data_file: PathLike,
        output_directory: PathLike,
        output_prefix: str,
        output_torch_embs: bool = False,
        cell_state: Mapping[str, Any] | None = None,
    ) -> Any:
        """Embed cells or genes; write {output_prefix}.csv and return its data frame, with a tensor if asked.

        Rows of cells are by falling length, with the columns of emb_label behind the dimensions; rows of genes carry their
        Ensembl id, by token. With an exact summary the file holds all rows and the frame one. With cell_state, {column:
        value}, only cells of that state are embedded, nothing is written, and the tensor (d,) or (cells, d) is returned.
        """
        self._check()
        out = Path(output_directory)
        with workplace(model_directory, token_file(self.token_dictionary_file), out) as (_, bundle):
            cells = self._all_cells(Path(input_data_file), bundle)
            encoder = Encoder(bundle, device=default_device(), dtype=self.dtype)
            if cell_state is not None:
                ((key, value),) = cell_state.items()
                return self._state(cells, encoder, key, value)
            cells = cells.take(select(cells, max_cells=self.max_ncells))
            if self.emb_mode == "gene":
                if output_torch_embs:
                    raise InputError("output_torch_embs is for cells, emb_mode is 'gene': take the data frame's values")
                frame = self._genes(cells, encoder, bundle)
                vectors = frame.to_numpy()
            else:
                vectors = self._vectors(cells, encoder)
                frame = self._labelled(vectors, cells)
        if self.summary_stat in ("mean", "median") and self.emb_mode != "gene":
            vectors = summary(vectors, self.summary_stat)[None]
            frame = pd.DataFrame(vectors)
        with replacing(output_file(out, output_prefix, ".csv")) as temporary:
            frame.to_csv(temporary)
        tensor = torch.from_numpy(vectors)
        if self.summary_stat in ("exact_mean", "exact_median"):
            one = summary(vectors, self.summary_stat)
            frame, tensor = pd.DataFrame([one], index=[self.summary_stat]), torch.from_numpy(one)
        elif self.summary_stat is not None and self.emb_mode != "gene":
            tensor = tensor[0]
        return (frame, tensor) if output_torch_embs else frame

    def get_state_embs(
        self,
        cell_states_to_model: Mapping[str, Any],
        model_directory: PathLike,
        input_data_file: PathLike,
        output_directory: PathLike,
        output_prefix: str,
        output_torch_embs: bool = True,
    ) -> dict[Any, torch.Tensor]:
        """{state: float32 tensor (d,)} of start, goal and alternatives, also written to {output_prefix}.pkl.

        A state's cells are those whose label equals it, at most max_ncells of them. output_torch_embs has no effect.
        """
        self._check()
        if self.summary_stat not in ("exact_mean", "exact_median"):
            raise InputError(f"summary_stat is {self.summary_stat!r}: states need 'exact_mean' or 'exact_median'")
        if self.emb_label is not None or self.emb_mode == "gene":
            raise InputError("states are one vector each: leave emb_label out and set emb_mode to 'cls' or 'cell'")
        key, start, goal, others = states_of(cell_states_to_model)
        out = Path(output_directory)
        with workplace(model_directory, token_file(self.token_dictionary_file), out) as (_, bundle):
            cells = self._all_cells(Path(input_data_file), bundle)
            encoder = Encoder(bundle, device=default_device(), dtype=self.dtype)
            states = {state: self._state(cells, encoder, key, state) for state in (start, goal, *others)}
        write_pickle(states, output_file(out, output_prefix, ".pkl"))
        return states

    def plot_embs(
        self,
        embs: pd.DataFrame,
        plot_style: str,
        output_directory: PathLike,
        output_prefix: str,
        max_ncells_to_plot: int | None = 1000,
        kwargs_dict: Mapping[str, Any] | None = None,
    ) -> None:
        """Draw a "umap" or "heatmap" of the frame of `extract_embs`: {output_prefix}_{style}_{label}.pdf for each label.

        The labels are those of labels_to_plot, columns behind the dimensions (emb_label). If there are more than
        max_ncells_to_plot rows, a sample is drawn, the same every time. kwargs_dict: size and palette (a list of colours)
        of a UMAP, cmap of a heat map; the other keywords of scanpy and seaborn have no effect, with a warning.
        """
        one_of("plot_style", plot_style, tuple(KEYWORDS))
        count("max_ncells_to_plot", max_ncells_to_plot, none=True)
        if not self.labels_to_plot or isinstance(self.labels_to_plot, str):
            raise InputError(f"labels_to_plot is {self.labels_to_plot!r}: give a list of the columns to colour by")
        dimensions = embs.shape[1] - len(self.emb_label or ())
        labels = list(embs.columns[dimensions:])
        given = dict(kwargs_dict or {})
        idle = [name for name in given if name not in KEYWORDS[plot_style]]
        if idle:
            deviates(f"kwargs_dict: {', '.join(idle)} of the published plot has no effect here")
        rows = sample(len(embs), max_ncells_to_plot)
        vectors = embs.iloc[rows, :dimensions].to_numpy(np.float32)
        for label in self.labels_to_plot:
            if label not in labels:
                logger.warning("label %s of labels_to_plot is not in the frame and is not drawn", label)
                continue
            out = output_file(output_directory, f"{output_prefix}_{plot_style}_{label}", ".pdf")
            values = [None if pd.isna(value) else value for value in embs[label].iloc[rows].tolist()]
            palette = tuple(given.get("palette", PALETTE))
            colouring = Colouring(title=str(label), values=values, palette=palette)
            if plot_style == "umap":
                draw_map(vectors, colouring, out, size=given.get("size"))
            else:
                draw_heat_map(vectors, colouring, out, cmap=given.get("cmap", "magma"))

    def _check(self) -> None:
        model_type(self.model_type)
        one_of("emb_mode", self.emb_mode, ("cls", "cell", "gene"))
        one_of("cell_emb_style", self.cell_emb_style, ("mean_pool",))
        one_of("gene_emb_style", self.gene_emb_style, ("mean_pool",))
        one_of("emb_layer", self.emb_layer, (-1, 0))
        one_of("summary_stat", self.summary_stat, SUMMARIES)
        count("max_ncells", self.max_ncells, none=True)
        if self.save_tdigest:
            raise InputError("save_tdigest=True is not here: set it False; means and medians are exact")
        for name in ("forward_batch_size", "nproc"):
            count(name, getattr(self, name))
        if isinstance(self.emb_label, str):
            raise InputError(f"emb_label is {self.emb_label!r}: give a list of columns")
        lists(self.filter_data)
        vocabulary = read_vocabulary(token_file(self.token_dictionary_file))
        generation(self.model_version, vocabulary)
        if self.emb_mode == "cls" and vocabulary.special.cls is None:
            raise InputError(f"emb_mode 'cls' needs <cls>, {self.token_dictionary_file} has none: use 'cell'")

    def _all_cells(self, path: Path, bundle: Bundle) -> Cells:
        cells = matching(Cells.read(path, bundle), lists(self.filter_data))
        for note in cells.notes:
            logger.info(note)
        if self.emb_mode == "cls":  # means of genes leave specials out wherever there are some
            framing(cells, self.emb_mode)
        return cells

    def _state(self, cells: Cells, encoder: Encoder, key: str, state: Any) -> torch.Tensor:
        """The vectors of the cells of a state, or their exact summary."""
        of_cells = labels_of(cells.obs, key, "state key").to_pylist()
        labels = [label for label in dict.fromkeys(of_cells) if label is not None]
        meant = label_meant(cells.obs.column(key), state)
        parts = [label for label in labels if label in meant and label != meant]
        if self.substring_states:
            found = [label is not None and label in meant for label in of_cells]
            if not any(found):
                raise InputError(f"no cell has a {key} that is part of {state!r}: the states are {', '.join(labels)}")
            some = cells.take(np.flatnonzero(found))
            rows = select(some, max_cells=self.max_ncells)
        else:
            if parts:
                deviates(
                    f"state {state!r} is taken from cells labelled exactly so; the published code adds those labelled "
                    f"{', '.join(map(repr, parts))} (substring_states=True does, too)"
                )
            some = cells
            rows = select(some, state_key=key, start=meant, max_cells=self.max_ncells)
        vectors = self._vectors(some.take(rows), encoder)
        if self.summary_stat is None:
            return torch.from_numpy(vectors)
        return torch.from_numpy(summary(vectors, self.summary_stat))

    def _vectors(self, cells: Cells, encoder: Encoder) -> np.ndarray:
        layers = measured_layers(encoder.config, self.emb_layer)
        budget = TOKEN_BUDGET[encoder.device.type]
        return embed(cells, encoder, level=self.emb_mode, layer_count=layers, tokens=budget)

    def _labelled(self, vectors: np.ndarray, cells: Cells) -> pd.DataFrame:
        frame = pd.DataFrame(vectors)
        for name in self.emb_label or ():
            if name != "length" and name not in cells.obs.column_names:
                raise InputError(f"emb_label {name!r} is not a column: there are {', '.join(cells.obs.column_names)}")
            frame[name] = cells.lengths if name == "length" else cells.obs.column(name).to_pylist()
        return frame

    def _genes(self, cells: Cells, encoder: Encoder, bundle: Bundle) -> pd.DataFrame:
        """The mean or median hidden state of every gene over the cells that have it; specials have their rows, too."""
        layers, budget = measured_layers(encoder.config, self.emb_layer), TOKEN_BUDGET[encoder.device.type]
        tokens = np.unique(cells.ids)
        if self.summary_stat == "median":
            found = gene_medians(cells, encoder, genes=tokens, layer_count=layers, tokens=budget)
        else:
            found = gene_sums(cells, encoder, genes=tokens, layer_count=layers, tokens=budget).means()
        return pd.DataFrame(found.vectors, index=[bundle.vocabulary.ensembl_id[t] for t in found.token])


def summary(vectors: np.ndarray, kind: str) -> np.ndarray:
    """Mean or lower-middle median over the rows, float32 (d,) (PS 3.7, PS B18)."""
    return next(iter(summarise(vectors, ["all"] * len(vectors), kind.removeprefix("exact_")).values()))
