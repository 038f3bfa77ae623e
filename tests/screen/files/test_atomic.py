"""Files and folders that appear whole or not at all."""

import shutil
from pathlib import Path

import pytest

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing, scratch


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_the_place_of_one_that_holds_something_only_when_asked(tmp_path):
    target = tmp_path / "a"
    for text in ("old", "new"):
        with replacing(target, folders=True) as making:
            making.mkdir()
            (making / text).touch()
    assert names(target) == ["new"]
    with pytest.raises(OSError, match="not empty"), replacing(target) as making:
        making.mkdir()
    assert names(target) == ["new"]
    assert names(tmp_path) == ["a"]


def test_what_fails_leaves_the_older_one_and_nothing_else(tmp_path):
    target = tmp_path / "a"
    with replacing(target, folders=True) as making:
        making.mkdir()
        (making / "old").touch()

    def fails() -> None:
        with replacing(target, folders=True) as making:
            making.mkdir()
            (making / "half").touch()
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half"):
        fails()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["a"]


def test_a_scratch_folder_is_gone_however_the_block_ends(tmp_path):
    def fails() -> None:
        with scratch(tmp_path / "deep" / "out") as folder:
            (folder / "x").write_text("x")
            assert folder.parent == tmp_path / "deep"
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        fails()
    assert names(tmp_path / "deep") == []


def test_a_folder_that_must_be_there_is_not_made_again(tmp_path):
    run = tmp_path / "run"
    (run / "shifts").mkdir(parents=True)
    with replacing(run / "commits/a.json", within=run) as temporary:
        temporary.write_text("{}")
    assert (run / "commits/a.json").read_text() == "{}"
    shutil.rmtree(run)
    for path in (run / "run.json", run / "commits/b.json"):
        refused = pytest.raises(InputError, match=r"run was moved or removed while it was written: put it back")
        with refused, replacing(path, within=run) as temporary:
            temporary.write_text("{}")
    assert not run.exists()


def test_one_that_goes_while_a_file_is_written_does_not_come_back(tmp_path):
    run = tmp_path / "run"
    run.mkdir()

    def write() -> None:
        with replacing(run / "a", within=run) as temporary:
            temporary.write_text("{}")
            run.rename(tmp_path / "moved")

    with pytest.raises(InputError, match="was moved or removed"):
        write()
    assert not run.exists()
