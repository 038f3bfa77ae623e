"""Models by name: hf://OWNER/NAME[@REVISION][/FOLDER], fetched through huggingface_hub into its cache on this machine.

Only the files of a checkpoint are fetched of a folder. What came is held against the checksums that the hub gives for
large files, and recorded with the commit it is of. HF_HUB_OFFLINE=1 takes what the cache has and asks nobody;
HF_ENDPOINT names another hub.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankshift.screen.errors import InputError
from rankshift.screen.extras import need
from rankshift.screen.files.checksum import sha256_of
from rankshift.screen.files.one_line import first_line

# Path() makes one slash of two, so both forms of a command line are read.
_NAME = re.compile(r"hf:/+(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<place>.+?))?/*")
FORM = "hf://OWNER/NAME, hf://OWNER/NAME/FOLDER or hf://OWNER/NAME@REVISION/FOLDER"
SAFE = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
HEADS = ("config.json", "adapter_config.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-?????-of-?????.bin")


@dataclass(slots=True, kw_only=True)
class FromHub:
    """The parts of a bundle on this machine. origins: of those that came from a hub, {part: repository, commit, sums}.

    A part that is not named by hf:// is the path it is. InputError is raised where a name has another form, nobody answers
    and the cache lacks it, the hub does not give it, or a file is not what the hub says it is.
    """

    origins: dict[str, dict[str, Any]] = field(default_factory=dict)

    def model(self, part: str, place: Path | str) -> Path:
        """The folder of a checkpoint or an adapter: its safetensors where it has them, else its pickled weights."""
        if not is_named(place):
            return Path(place)
        repository, revision, folder = _parts(place)
        inside = f"{folder}/" if folder else ""
        root = _snapshot(place, repository, revision, [inside + name for name in (*SAFE, *ADAPTER)])
        there = root / folder
        if not any(there.glob("*.safetensors")):
            root = _snapshot(place, repository, revision, [inside + name for name in (*SAFE, *ADAPTER, *PICKLED)])
        files = sorted(
            path for path in there.glob("*") if path.name in HEADS or path.suffix in (".safetensors", ".bin")
        )
        if not any(path.name in HEADS for path in files):
            raise InputError(f"{_shown(place)} has no config.json there: name the folder of a model in it, {FORM}")
        self.origins[part] = _record(place, repository, root, files)
        return there

    def file(self, part: str, place: Path | str) -> Path:
        """One file, such as a dictionary of tokens."""
        if not is_named(place):
            return Path(place)
        repository, revision, name = _parts(place)
        if not name:
            raise InputError(f"{_shown(place)} names no file: give hf://OWNER/NAME/FILE")
        root = _snapshot(place, repository, revision, [name])
        if not (root / name).is_file():
            raise InputError(f"{_shown(place)}: {repository} has no file {name}: check its name")
        self.origins[part] = _record(place, repository, root, [root / name])
        return root / name


def is_named(place: Path | str) -> bool:
    """Whether a place is of a hub."""
    return str(place).startswith("hf:/")


def _parts(place: Path | str) -> tuple[str, str | None, str]:
    need("hub", _shown(place))
    found = _NAME.fullmatch(str(place))
    if found is None or ".." in str(place).split("/"):
        raise InputError(f"{_shown(place)} names no model of a hub: give {FORM}")
    return found["repository"], found["revision"], found["place"] or ""


def _shown(place: Path | str) -> str:
    return re.sub(r"^hf:/+", "hf://", str(place))


def _snapshot(place: Path | str, repository: str, revision: str | None, wanted: list[str]) -> Path:
    """The folder of the repository's commit in the cache, with the wanted files that it has."""
    # Late: it is an extra, and takes a second.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    shown = _shown(place)
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise InputError(f"{shown} asks for consent: give it on its page, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{constants.ENDPOINT} has no model {repository}, or not for you: check the name, or `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{repository} has no revision {revision}: name a branch, a tag or a commit of it") from error
    except HFValidationError as error:
        raise InputError(f"{shown} names no model of a hub ({first_line(error)}): give {FORM}") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise _unanswered(shown, error) from error


def _unanswered(shown: str, error: Exception) -> InputError:
    """What to say where neither the hub nor the cache gives a file."""
    # Late: it is an extra, and takes a second.
    from huggingface_hub import constants

    for cause in (error, error.__cause__):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in (401, 403):
            return InputError(
                f"{shown} is not given to you ({status}): ask its owner, `hf auth login`, or copy the folder and give its path"
            )
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set and the cache lacks it: unset it"
    else:
        why = f"{constants.ENDPOINT} cannot be asked ({first_line(error.__cause__ or error)[:120]}): connect"
    return InputError(f"{shown}: {why}, or copy the folder from elsewhere and give its path")


def _record(place: Path | str, repository: str, root: Path, files: list[Path]) -> dict[str, Any]:
    """Where files are from: repository, commit and sums; a large file that is not what the hub has is refused."""
    sums = {}
    for path in files:
        sums[str(path.relative_to(root))] = found = sha256_of(path)
        promised = Path(os.path.realpath(path)).name  # the cache names a large file by its sha256
        if re.fullmatch(r"[0-9a-f]{64}", promised) and promised != found:
            raise InputError(
                f"{_shown(place)}: {path} has sha256 {found[:12]}, the hub says {promised[:12]}: remove it and fetch again"
            )
    return {"repository": repository, "commit": root.name, "sha256": sums}
