"""Which pictures of embeddings are wanted, refused before anything is computed where they cannot be drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rankshift.jobs.show.embedding_map import PROJECTIONS, check_umap
from rankshift.jobs.show.figures import FORMATS
from rankshift.screen.errors import InputError
from rankshift.screen.extras import need


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What to draw. map, heat_map: files (.png, .pdf, .svg). color: a column. projection: of the map, umap or pca."""

    map: Path | None = None
    heat_map: Path | None = None
    color: str | None = None
    projection: str = "umap"

    def __post_init__(self) -> None:
        for name, path in (("--plot", self.map), ("--heat-map", self.heat_map)):
            if path is not None and path.suffix not in FORMATS:
                raise InputError(f"{name} {path} is neither of {', '.join(FORMATS)}: name one of those")
        if self.projection not in PROJECTIONS:
            raise InputError(f"--projection {self.projection!r} is unknown: use one of {', '.join(PROJECTIONS)}")
        if not self and self.color is not None:
            raise InputError("--color is for pictures: add --plot FILE or --heat-map FILE")
        if self:
            need("plots", "a picture", "matplotlib")
        if self.map is not None and self.projection == "umap":
            check_umap()

    def __bool__(self) -> bool:
        return self.map is not None or self.heat_map is not None

    def check(self, columns: Sequence[str]) -> None:
        """Refuse a color that is not one of the rows' columns."""
        if self.color is not None and self.color not in columns:
            raise InputError(f"--color {self.color!r} is not a column: the columns are {', '.join(columns)}")
