"""`rankshift verify` on runs and bundles, whole and damaged."""

import shutil

import pytest

from drawn_runs import Draw
from rankshift.jobs.cli.entry import run_command
from rankshift.jobs.verbs.verify import verify
from rankshift.screen.errors import InputError
from rankshift.screen.runs.compaction import compact
from rankshift.screen.runs.layout import COMPACTED


def test_whole_runs_and_bundles_are_told_so(bundles, tmp_path, capsys):
    run, _ = Draw(cells=10, genes=20, per_cell=10).run(tmp_path / "run")
    assert run_command(["verify", str(run.path)]) == 0
    assert run_command(["verify", str(bundles["v1"])]) == 0
    said = "".join(capsys.readouterr())
    assert "as they were written, 1 of 1 shards are there" in said
    assert "files of the bundle are as they were made" in said


def test_a_damaged_copy_of_the_parts_is_told(tmp_path):
    run, _ = Draw(cells=10, genes=20, per_cell=10).run(tmp_path / "run")
    compact(run)
    verify(run.path)
    victim = next((run.path / COMPACTED).glob("shifts-*.parquet"))
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 4
    victim.write_bytes(raw)
    with pytest.raises(InputError, match=r"compacted is damaged \(shifts.*sha256\): remove it, the parts have all"):
        verify(run.path)


@pytest.mark.parametrize("what", ["run", "bundle", "nothing"])
def test_damage_is_one_line_and_exit_code_2(what, bundles, tmp_path, capsys):
    if what == "run":
        run, _ = Draw(cells=10, genes=20, per_cell=10).run(tmp_path / "there")
        victim = run.path / "shifts/shard-000000.parquet"
    else:
        shutil.copytree(bundles["v1"], tmp_path / "there")
        victim = tmp_path / "there/model.safetensors"
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 4
    victim.write_bytes(raw)
    assert run_command(["verify", str(tmp_path / ("there" if what != "nothing" else "elsewhere"))]) == 2
    said = capsys.readouterr().err
    assert ("sha256" if what != "nothing" else "is no folder") in said
    assert len(said.strip().splitlines()) == 1
