"""The bundle: a model and its vocabulary as one folder with one identity, so that they cannot be mixed up.

A bundle is never edited. Making one copies the checkpoint, checks that weights, configuration and vocabulary belong
together, and renames the finished folder into place; pickled weights are read tensors-only and stored as safetensors.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from rankshift.screen.bundle.checkpoint import checkpoint_files, convert_pickled, read_header, read_tensors, tensors_of
from rankshift.screen.bundle.hub import FromHub
from rankshift.screen.bundle.lora import WEIGHTS as ADAPTER_WEIGHTS
from rankshift.screen.bundle.lora import is_adapter, merge
from rankshift.screen.bundle.soundness import check_tensors, check_values, unwrap
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import Family, family_of
from rankshift.screen.families.sizes import Sizes
from rankshift.screen.files.atomic import scratch, sync
from rankshift.screen.files.checksum import sha256_of
from rankshift.screen.files.foreign import read_mapping
from rankshift.screen.files.json_file import read_object
from rankshift.screen.files.one_line import first_line
from rankshift.screen.files.text_file import readable
from rankshift.screen.genes.framing import FrameTokens
from rankshift.screen.genes.vocabulary import Special, Vocabulary, plain_id, read_vocabulary

SCHEMA = 1
WEIGHTS = ".safetensors"  # how the names of the files with weights end; they are verified when they are loaded


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Bundle:
    """An opened bundle. config: the model's config.json. aliases: {alias or retired id: id of the vocabulary}."""

    path: Path
    generation: str
    special: Special
    input_size: int  # longest rank list the model takes, specials included
    config: dict[str, Any]
    vocabulary: Vocabulary
    aliases: dict[str, str]
    weights_sha256: str
    vocabulary_sha256: str
    files: dict[str, dict[str, Any]]  # file name -> {"bytes", "sha256"}

    @staticmethod
    def open(path: Path) -> "Bundle":
        """Open a bundle: everything is present, sizes are as recorded, and the vocabulary is the recorded one.

        The weights are not hashed here (that takes a second per gigabyte); `verify` does it.
        """
        path = Path(path)
        if not (path / "bundle.json").is_file():
            fix = "make one with `rankshift bundle`" if (path / "config.json").is_file() else "check the path"
            raise InputError(f"{path} is not a bundle (no bundle.json): {fix}")
        record = read_object(path / "bundle.json")
        if record.get("schema") != SCHEMA:
            found = record.get("schema")
            raise InputError(
                f"{path} is a bundle of schema {found!r}, this version reads {SCHEMA}: make the bundle again"
            )
        try:
            files = {
                str(name): {"bytes": int(f["bytes"]), "sha256": str(f["sha256"])} for name, f in record["files"].items()
            }
            generation, weights_sha256 = str(record["generation"]), str(record["weights_sha256"])
            special = Special(**record["special"])
            input_size = int(record["input_size"])
            vocabulary_sha256 = str(files["vocabulary.parquet"]["sha256"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{path}/bundle.json is damaged ({error!r}): make the bundle again") from error
        for name, file in files.items():
            size = (path / name).stat().st_size if (path / name).is_file() else None
            if size != file["bytes"]:
                found = "missing" if size is None else f"{size} bytes"
                raise InputError(f"{path}/{name} is {found}, recorded are {file['bytes']} bytes: make the bundle again")
        for name, file in files.items():
            if not name.endswith(WEIGHTS) and sha256_of(path / name) != file["sha256"]:
                raise InputError(f"{path}/{name} was changed after the bundle was made: make the bundle again")
        vocabulary = Vocabulary.read(path / "vocabulary.parquet")
        config, family = _check_config(path)
        if vocabulary.special != special or vocabulary.size != family.sizes(config).vocabulary:
            raise InputError(f"{path}/bundle.json and its vocabulary disagree: make the bundle again")
        positions = family.sizes(config).positions
        if input_size != positions:
            raise InputError(
                f"{path}/bundle.json has input size {input_size}, its model {positions} positions: make the bundle again"
            )
        return Bundle(
            path=path,
            generation=generation,
            special=special,
            input_size=input_size,
            config=config,
            vocabulary=vocabulary,
            aliases=_read_aliases(path / "aliases.parquet") if "aliases.parquet" in files else {},
            weights_sha256=weights_sha256,
            vocabulary_sha256=vocabulary_sha256,
            files=files,
        )

    def token_of(self, gene: str) -> int | None:
        """Token of a gene as users name it: an Ensembl id, a symbol, or an alias or retired id that the bundle knows."""
        token = self.vocabulary.token_of(gene)
        if token is None and (current := self.aliases.get(plain_id(gene))) is not None:
            token = self.vocabulary.token_of(current)
        return token

    @property
    def frame_tokens(self) -> FrameTokens:
        """What stands around the genes of the model's lists."""
        return self.vocabulary.frame_tokens

    @property
    def family(self) -> Family:
        """What is known of models of this kind."""
        return family_of(self.config, self.path)

    @property
    def sizes(self) -> Sizes:
        """The shape of the model."""
        return self.family.sizes(self.config)

    def encoder_weights(self) -> dict[str, Tensor]:
        """The encoder's tensors from the weight files, verified, without the prefix of the model around it."""
        names = [name for name in self.files if name.endswith(WEIGHTS)]
        self._verify(names)
        check_tensors([self.path / name for name in names], self.config, self.family)
        weights = self.family.encoder_weights(read_tensors(self.path))
        if weights is None:
            name = self.family.name
            raise InputError(f"{self.path} holds no {name} encoder: make the bundle from a {name} checkpoint")
        check_values(weights, self.path)
        return weights

    def check(self, weights_sha256: str, fix: str = "use that bundle") -> None:
        """Refuse the bundle where its weights are not those that a run was made with; fix: what to do then."""
        if self.weights_sha256 != weights_sha256:
            raise InputError(
                f"{self.path} has weights {self.weights_sha256[:12]}, the run {weights_sha256[:12]}: {fix}"
            )

    def verify(self) -> None:
        """Hash every file; raise InputError naming the first that is not the recorded one."""
        self._verify(self.files)
        weights = [file["sha256"] for name, file in sorted(self.files.items()) if name.endswith(WEIGHTS)]
        if _weights_identity(weights) != self.weights_sha256:
            raise InputError(f"{self.path}/bundle.json and its weights disagree: make the bundle again")

    def _verify(self, names: Iterable[str]) -> None:
        for name in names:
            if sha256_of(readable(self.path / name)) != self.files[name]["sha256"]:
                raise InputError(f"{self.path}/{name} does not have its recorded sha256: make the bundle again")


def make_bundle(
    checkpoint: Path | str,
    vocabulary: Path | str,
    out: Path,
    medians: Path | str | None = None,
    names: Path | str | None = None,
    aliases: Path | str | None = None,
    base: Path | str | None = None,
) -> Bundle:
    """Make the bundle folder `out` from a Hugging Face checkpoint and a vocabulary (forms: `genes.read_vocabulary`).

    checkpoint holds config.json and model.safetensors, sharded safetensors with their index, or pytorch_model.bin. With
    `base`, which is such a checkpoint, `checkpoint` is a LoRA adapter that is merged into its weights (module `lora`).
    aliases is {alias: Ensembl id}. Each may be a place on a hub, hf://OWNER/NAME/… (module `hub`), which bundle.json then
    names with its commit and sums. Making the same bundle again returns the one there; another `out` is never replaced.
    """
    out, hub = Path(out), FromHub()
    if out.exists() and not (out / "bundle.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a bundle: give another --out")
    base = None if base is None else hub.model("base", base)
    checkpoint, adapter = _base_and_adapter(hub.model("model", checkpoint), base)
    config, family = _check_config(checkpoint)
    sizes = family.sizes(config)
    given = {"medians": medians, "names": names, "aliases": aliases}
    lists = {part: None if place is None else hub.file(part, place) for part, place in given.items()}
    table = read_vocabulary(hub.file("vocabulary", vocabulary), lists["medians"], lists["names"])
    if table.size != sizes.vocabulary:
        limit = sizes.vocabulary
        raise InputError(
            f"vocabulary has {table.size} tokens, the model {limit}: use the bundle of the same generation"
        )
    sources = checkpoint_files(checkpoint)
    renamed = lists["aliases"]
    targets = None if renamed is None else _alias_targets(read_mapping(renamed), table, renamed)

    with scratch(out) as making:
        (making / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if sources.pickled:
            convert_pickled(sources.weights, making / "model.safetensors")
        else:
            for source in (*sources.weights, *sources.index):
                shutil.copyfile(source, making / source.name)
        weights = sorted(making.glob("*.safetensors"))
        unwrap(weights)
        _check_shapes(weights, config, family)
        check_tensors(weights, config, family)
        merged = {} if adapter is None else _merge(adapter, weights, family)
        check_values(_encoder_of(weights, family), checkpoint)
        table.write(making / "vocabulary.parquet")
        if targets is not None:
            columns = {"alias": pa.array(list(targets)), "ensembl_id": pa.array(list(targets.values()))}
            pq.write_table(pa.table(columns), making / "aliases.parquet", compression="zstd")
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(making.iterdir()):
            sync(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        special = table.special
        record = {
            "schema": SCHEMA,
            "generation": "v1" if special.cls is None else "v2",
            "special": {"pad": special.pad, "mask": special.mask, "cls": special.cls, "eos": special.eos},
            "input_size": sizes.positions,
            "weights_sha256": _weights_identity([files[path.name]["sha256"] for path in weights]),
            "vocabulary_sha256": files["vocabulary.parquet"]["sha256"],
            "files": files,
            **merged,
            **({"hub": hub.origins} if hub.origins else {}),
        }
        (making / "bundle.json").write_text(json.dumps(record, indent=2) + "\n")
        sync(making / "bundle.json")
        sync(making)
        try:
            making.rename(out)  # replaces an empty folder, fails on a bundle made meanwhile
        except OSError:
            return _same_bundle(out, record)
        sync(out.parent)
    return Bundle.open(out)


def _base_and_adapter(checkpoint: Path, base: Path | None) -> tuple[Path, Path | None]:
    if base is None and is_adapter(checkpoint) and not (checkpoint / "config.json").is_file():
        raise InputError(f"{checkpoint} is a LoRA adapter, which changes another model: name that with --base")
    if base is None:
        return checkpoint, None
    if not is_adapter(checkpoint):
        raise InputError(f"{checkpoint} has no adapter_config.json: with --base, give the folder of a LoRA adapter")
    return base, checkpoint


def _merge(adapter: Path, weights: list[Path], family: Family) -> dict[str, Any]:
    """Merge the adapter into the weights; what bundle.json says about it: whose weights these were, and what came to them."""
    before = _weights_identity([sha256_of(path) for path in weights])
    layers = merge(adapter, weights, family)
    return {
        "adapter": {"sha256": sha256_of(adapter / ADAPTER_WEIGHTS), "layers": layers, "base_weights_sha256": before}
    }


def _same_bundle(out: Path, record: Mapping[str, Any]) -> Bundle:
    there = Bundle.open(out)
    if read_object(out / "bundle.json") != record:
        raise InputError(f"{out} is another bundle: give another --out or remove it")
    there.verify()
    return there


def _encoder_of(weights: list[Path], family: Family) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in weights:
        found |= tensors_of(path)
    return family.encoder_weights(found) or {}


def _check_config(checkpoint: Path) -> tuple[dict[str, Any], Family]:
    if not (checkpoint / "config.json").is_file():
        raise InputError(f"{checkpoint} has no config.json: give the folder of a Hugging Face checkpoint")
    config = read_object(checkpoint / "config.json")
    family = family_of(config, checkpoint)
    for name in family.counts:
        if type(config.get(name)) is not int or config[name] < 1:
            raise InputError(
                f"{name} in {checkpoint}/config.json is {config.get(name)!r}, not a count: repair the checkpoint"
            )
    family.check_config(config)
    return config, family


def _check_shapes(weights: list[Path], config: Mapping[str, Any], family: Family) -> None:
    """Every tensor lies within its file, and the embeddings have the rows the configuration names."""
    shapes = {name: shape for path in weights for name, shape in read_header(path).items()}
    for part, (end, want) in family.tables(config).items():
        found = [shape for name, shape in shapes.items() if name.endswith(end)]
        if not found:
            raise InputError(
                f"weights hold no {part} embeddings among {len(shapes)} tensors: give a {family.name} checkpoint"
            )
        if found[0] != want:
            raise InputError(f"{part} embeddings are {found[0]}, config.json says {want}: repair the checkpoint")


def _alias_targets(mapping: Mapping[str, Any], vocabulary: Vocabulary, path: Path) -> dict[str, str]:
    """{alias: Ensembl id of the vocabulary}, without entries that map a gene to itself or to nothing we know."""
    known = vocabulary.by_id
    targets = {plain_id(str(alias)): plain_id(str(gene)) for alias, gene in mapping.items()}
    targets = {alias: gene for alias, gene in targets.items() if gene in known}
    if not targets:
        raise InputError(f"{path}: no alias leads to a gene of the vocabulary: aliases are {{alias: Ensembl id}}")
    return {alias: vocabulary.ensembl_id[known[gene]] for alias, gene in sorted(targets.items()) if alias != gene}


def _read_aliases(path: Path) -> dict[str, str]:
    try:
        table = pq.read_table(path)
        return dict(zip(table.column("alias").to_pylist(), table.column("ensembl_id").to_pylist(), strict=True))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}): make the bundle again") from error


def _weights_identity(digests: list[str]) -> str:
    """The file's own sha256, or for shards the sha256 over theirs in file order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
