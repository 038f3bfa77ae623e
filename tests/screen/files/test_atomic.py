"""Files and folders that appear whole or not at all."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rankshift.screen.files.atomic import MovedAway, replacing, scratch


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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder for which its run.json stands."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    return folder


def test_a_folder_that_must_be_there_is_not_made_again(run):
    sign = run / "run.json"
    with replacing(run / "commits/a.json", within=sign) as temporary:
        temporary.write_text("{}")
    assert (run / "commits/a.json").read_text() == "{}"
    shutil.rmtree(run)
    for path in (run / "b.json", run / "commits/b.json"):
        refused = pytest.raises(MovedAway, match=r"run was moved or removed while it was written: put it back")
        with refused, replacing(path, within=sign) as temporary:
            temporary.write_text("{}")
    assert not run.exists()


@pytest.mark.parametrize("folder", [False, True])
def test_one_that_is_moved_while_a_file_is_written_has_nothing_of_it_anywhere(folder, run, tmp_path):
    def write() -> None:
        with replacing(run / "a", within=run / "run.json") as temporary:
            if folder:
                temporary.mkdir()
                (temporary / "half").write_text("{}")
            else:
                temporary.write_text("{}")
            run.rename(tmp_path / "moved")

    with pytest.raises(MovedAway, match="was moved or removed"):
        write()
    assert not run.exists()
    assert names(tmp_path / "moved") == ["run.json"]


def test_what_stands_for_the_folder_may_go_first(run):
    """Whoever removes a folder removes its files one by one."""

    def write() -> None:
        with replacing(run / "a", within=run / "run.json") as temporary:
            temporary.write_text("{}")
            (run / "run.json").unlink()

    with pytest.raises(MovedAway):
        write()
    assert names(run) == []


@pytest.mark.slow
def test_what_a_read_only_disk_has_kept_is_removed_by_the_same_process_later(tmp_path):
    """A worker of a pool lives on: nobody else clears away what it has begun."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = (
        "import subprocess, sys\n"
        "from pathlib import Path\n"
        "from rankshift.screen.files.atomic import replacing\n"
        "disk = Path(sys.argv[1])\n"
        "def mount(options): subprocess.run(['mount', '-o', options, disk], check=True)\n"
        "try:\n"
        "    with replacing(disk / 'a') as temporary:\n"
        "        temporary.write_text('half')\n"
        "        mount('remount,ro')\n"
        "except OSError as error:\n"
        "    assert str(disk) in str(error), error\n"
        "assert list(disk.iterdir())\n"
        "mount('remount,rw')\n"
        "with replacing(disk / 'b') as temporary:\n"
        "    temporary.write_text('whole')\n"
        "print(sorted(path.name for path in disk.iterdir()))\n"
    )
    mount = f"mount -t tmpfs -o size=1m tmpfs {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    script = f'{mount} && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", code, str(disk)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "['b']\n", done.stderr
