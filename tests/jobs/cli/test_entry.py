"""The command line: from an h5ad to SQL, exit codes, one clear line for each bad input, and nothing half-written."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankshift.jobs.cli import run_command
from rankshift.screen.engine.screener import run as screen
from rankshift.screen.runs.run import Run
from support import GOLDEN, PATIENCE, Halt

V1 = GOLDEN / "v1"


def rankshift(*arguments: object) -> int:
    return run_command([str(a) for a in arguments])


@pytest.mark.slow
def test_from_h5ad_to_sql(bundles, tmp_path, capfd):
    bundle = bundles["v1"]
    assert (
        rankshift(
            "tokenize", V1 / "cells.h5ad", "--bundle", bundle, "--out", tmp_path / "c.parquet", "--keep", "cell_type"
        )
        == 0
    )
    cells = tmp_path / "c.parquet"
    states = tmp_path / "states.json"
    assert rankshift("embed", cells, "--bundle", bundle, "--out", states, "--by", "cell_type") == 0
    kinds = list(json.loads(states.read_text()))
    run = tmp_path / "run"
    route = ["--states", states, "--state-key", "cell_type", "--start", kinds[0], "--goal", kinds[1]]
    assert rankshift("screen", cells, "--bundle", bundle, "--out", run, "--perturb", "overexpress", *route) == 0
    capfd.readouterr()
    query = f'SELECT gene_ids, avg("shift_{kinds[1]}") AS shift, count(*) AS n FROM shifts GROUP BY 1 ORDER BY 2 DESC LIMIT 3'
    assert rankshift("query", run, query, "--format", "json") == 0
    rows = json.loads(capfd.readouterr().out)
    assert len(rows) == 3
    assert rows[0]["shift"] >= rows[1]["shift"] >= rows[2]["shift"]
    assert rows[0]["gene_ids"].startswith("ENSG9")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["table", "csv", "parquet", "json"])
def test_query_formats(format, bundles, tmp_path, capfd):
    run = tmp_path / "run"
    rankshift(
        "screen", V1 / "cells.parquet", "--bundle", bundles["v1"], "--out", run, "--perturb", "delete", "--max-cells", 1
    )
    capfd.readouterr()
    query = "SELECT cell_id, gene_ids, similarity FROM shifts ORDER BY ALL"
    expected = Run.open(run).sql(query)
    if format == "table":
        assert rankshift("query", run, query) == 0
        assert expected["gene_ids"][0].as_py() in capfd.readouterr().out
        return
    out = tmp_path / f"rows.{format}"
    assert rankshift("query", run, query, "--format", format, "--out", out) == 0
    if format == "parquet":
        assert pq.read_table(out).equals(expected)
    elif format == "json":
        assert [row["similarity"] for row in json.loads(out.read_text())] == expected["similarity"].to_pylist()
    else:
        assert len(out.read_text().splitlines()) == expected.num_rows + 1


def test_a_dry_run_tells_the_cost_and_writes_nothing(bundles, tmp_path, capfd):
    run = tmp_path / "run"
    assert (
        rankshift(
            "screen", V1 / "cells.parquet", "--bundle", bundles["v1"], "--out", run, "--perturb", "delete", "--dry-run"
        )
        == 0
    )
    said = capfd.readouterr().err
    assert "551 perturbed + 12 original" in said
    assert "FLOP" in said
    assert not run.exists()


def test_unknown_genes_are_reported_and_the_rest_is_screened(bundles, tmp_path, capfd):
    gene = next(g for g in json.loads((V1 / "vocabulary.json").read_text()) if g.startswith("ENSG"))
    run = tmp_path / "run"
    genes = f"{gene},ENSG00000000000"
    assert (
        rankshift(
            "screen",
            V1 / "cells.parquet",
            "--bundle",
            bundles["v1"],
            "--out",
            run,
            "--perturb",
            "delete",
            "--genes",
            genes,
        )
        == 0
    )
    assert "1 genes are not in the vocabulary and are left out: ENSG00000000000" in capfd.readouterr().err
    assert Run.open(run).manifest["unknown_genes"] == ["ENSG00000000000"]


def h5ad(path: Path, **changes) -> Path:
    """The golden cells with something wrong."""
    data = anndata.read_h5ad(V1 / "cells.h5ad")
    for change in changes.values():
        change(data)
    data.write_h5ad(path)
    return path


def _negative(data) -> None:
    data.X = data.X.toarray() if hasattr(data.X, "toarray") else data.X
    data.X[0, 0] = -1


def _nan(data) -> None:
    data.X = (data.X.toarray() if hasattr(data.X, "toarray") else data.X).astype(np.float32)
    data.X[0, 0] = np.nan


def _no_ids(data) -> None:
    del data.var["ensembl_id"]
    data.var_names = [f"g{i}" for i in range(data.n_vars)]


def _foreign(data) -> None:
    data.var["ensembl_id"] = [f"ENSMUSG{i:011d}" for i in range(data.n_vars)]
    data.var_names = data.var["ensembl_id"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(_negative, "negative|-1"), (_nan, "nan|NaN|finite"), (_no_ids, "gene"), (_foreign, "%|mapped|genes")],
)
def test_bad_counts_and_ids_are_refused(wrong, message, bundles, tmp_path, capfd):
    data = h5ad(tmp_path / "cells.h5ad", wrong=wrong)
    assert rankshift("tokenize", data, "--bundle", bundles["v1"], "--out", tmp_path / "c.parquet") == 2
    _one_line(capfd.readouterr().err, message)
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]


def _one_line(err: str, message: str) -> None:
    lines = [line for line in err.splitlines() if line.startswith("rankshift: ")]
    assert len(lines) == 1, err
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in err


def test_bad_files_are_refused_in_one_line(bundles, tmp_path, capfd):
    whole = (V1 / "cells.parquet").read_bytes()
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(whole[: len(whole) // 2])
    table = pq.read_table(V1 / "cells.parquet")
    foreign = tmp_path / "foreign.parquet"
    ids = [[*x[:-1], 9999] for x in table["input_ids"].to_pylist()]
    pq.write_table(table.set_column(table.column_names.index("input_ids"), "input_ids", pa.array(ids)), foreign)
    for cells, message in (
        (torn, "not a readable Parquet"),
        (foreign, "9999"),
        (tmp_path / "none.parquet", "does not exist"),
    ):
        code = rankshift("screen", cells, "--bundle", bundles["v1"], "--out", tmp_path / "run", "--perturb", "delete")
        assert code == 2
        _one_line(capfd.readouterr().err, message)
        assert not (tmp_path / "run").exists()


def test_weights_and_vocabulary_of_two_generations_are_refused(tmp_path, capfd):
    code = rankshift(
        "bundle", V1 / "model", "--vocabulary", GOLDEN / "v2/vocabulary.json", "--out", tmp_path / "bundle"
    )
    assert code == 2
    _one_line(capfd.readouterr().err, "use the bundle of the same generation")
    assert list(tmp_path.iterdir()) == []


def test_corrupt_weights_are_refused(tmp_path, capfd):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((V1 / "model/config.json").read_bytes())
    (model / "model.safetensors").write_bytes((V1 / "model/model.safetensors").read_bytes()[:5000])
    assert rankshift("bundle", model, "--vocabulary", V1 / "vocabulary.json", "--out", tmp_path / "bundle") == 2
    _one_line(capfd.readouterr().err, "safetensors")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "arguments", [["screen"], ["screen", "x", "--perturb", "delete", "--layer", "two"], ["unheard-of"], ["query", "x"]]
)
def test_bad_usage_has_exit_code_2(arguments, capfd):
    assert rankshift(*arguments) == 2
    _one_line(capfd.readouterr().err, ".")


@pytest.mark.slow
def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on_later(bundles, tmp_path):
    """A file system of 160 KB in a namespace of its own: the run fits, its parts do not."""
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=160k tmpfs {small}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    run = small / "run"
    where = [V1 / "cells.parquet", "--bundle", bundles["v1"], "--out", run, "--perturb", "delete", "--shard-tokens", 60]
    screen = shlex.join([sys.executable, "-m", "rankshift.jobs.cli", "screen", *map(str, where)])
    again = f"mount -o remount,size=20m {small} && {screen} --resume && ls -A {run}/shifts {run}/commits"
    script = f"{mount} && {screen}; echo code $?; ls -A {run}/shifts; {again}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    assert "code 2" in done.stdout, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("rankshift: ")]
    assert len(said) == 1, done.stderr
    assert re.search("the disk is full .*: free some space, then continue with --resume", said[0])
    assert done.returncode == 0, done.stderr
    assert ".tmp" not in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, "SIGTERM where SIGINT is ignored"])
def test_an_interrupted_screen_exits_with_3_and_resumes(kind, bundles, tmp_path):
    """The last is how a script's `&` and some job managers start a command."""
    run = tmp_path / "run"
    where = [V1 / "cells.parquet", "--bundle", bundles["v1"], "--out", run, "--perturb", "delete", "--shard-tokens", 60]
    command = [sys.executable, "-m", "rankshift.jobs.cli", "screen", *map(str, where)]
    if isinstance(kind, str):
        command, kind = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command], signal.SIGTERM
    halt = Halt(run / "commits/shard-000001.json")
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert halt.wait() == child.pid
        child.send_signal(kind)
        halt.go_on()
        _, err = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
    assert child.returncode == 3, err
    assert "stopped" in err
    assert 0 < len(Run.open(run).committed) < Run.open(run).manifest["shards"]
    assert rankshift("screen", *where, "--resume") == 0
    assert Run.open(run).sql("SELECT count(*) AS n FROM shifts")["n"].to_pylist() == [551]
    assert not [name for name in os.listdir(run / "shifts") if name.endswith(".tmp")]


@pytest.mark.slow
def test_a_run_that_is_moved_away_ends_its_screen_and_does_not_come_back_half(bundles, tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    where = [V1 / "cells.parquet", "--bundle", bundles["v1"], "--perturb", "delete", "--shard-tokens", 60]
    command = [sys.executable, "-m", "rankshift.jobs.cli", "screen", *map(str, where), "--out", str(run)]
    halt = Halt(run / "commits/shard-000001.json")
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        halt.wait()
        run.rename(moved)
        halt.go_on()
        _, err = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
    assert child.returncode == 2, err
    assert (
        f"rankshift: {run} was moved or removed while it was written: put it back, then continue with --resume" in err
    )
    assert "Traceback" not in err
    assert not run.exists()
    assert rankshift("screen", *where, "--out", moved, "--resume") == 0
    assert Run.open(moved).sql("SELECT count(*) AS n FROM shifts")["n"].to_pylist() == [551]


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("a-file/b/x.parquet", "Not a directory: a part of the path is a file: give another place"),
        ("a-file/x.parquet", "a-file: File exists: it is in the way and no folder: give another place"),
        (f"{'x' * 300}.parquet", "File name too long: give a shorter name"),
        ("a-folder.parquet", "a-folder.parquet: Is a directory: it is a folder, a file is needed: give another path"),
        ("round/x.parquet", "round: File exists: it is in the way"),
        ("round/b/x.parquet", "links lead in a circle|in the way"),
    ],
)
def test_what_the_system_refuses_is_one_line(out, words, bundles, tmp_path, capfd):
    (tmp_path / "a-file").write_text("")
    (tmp_path / "a-folder.parquet").mkdir()
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert rankshift("embed", V1 / "cells.parquet", "--bundle", bundles["v1"], "--out", tmp_path / out) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("rankshift: ")]
    assert len(said) == 1
    assert re.search(words, said[0])


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_is_said_in_one_line(bundles, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=20m tmpfs {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    where = [V1 / "cells.parquet", "--bundle", bundles["v1"], "--out", disk / "run", "--perturb", "delete"]
    screen = shlex.join([sys.executable, "-m", "rankshift.jobs.cli", "screen", *map(str, where)])
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} && mount -o remount,ro {disk} && {screen}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Read-only file system: the disk is read-only" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fault_of_ours_shows_its_trace_without_the_keys_of_urls():
    code = (
        "import sys; from rankshift.jobs.cli import entry\n"
        "def fail(arguments): raise RuntimeError('cannot reach s3://AKIAKEY:SECRET@lab/run')\n"
        "entry.run_command = fail; entry.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "s3://***@lab/run" in done.stderr
    assert "AKIAKEY" not in done.stderr


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_a_query_without_a_trace(bundles, tmp_path):
    screen(V1 / "cells.parquet", bundles["v1"], tmp_path / "run", perturb="delete", max_cells=4)
    ask = ["query", str(tmp_path / "run"), "SELECT range FROM range(200000)", "--format", "csv"]
    line = f"{shlex.join([sys.executable, '-m', 'rankshift.jobs.cli', *ask])} | head -1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.stdout == '"range"\n'
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.slow
def test_numba_is_imported_only_to_rank():
    rooms = "rankshift.jobs.cli, rankshift.screen.tokenizer.tokenize, rankshift.screen.runs.run"
    code = f"import sys, {rooms}; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.slow
def test_a_report_is_written_or_it_is_said_why_not(bundles, tmp_path, capfd):
    out, run = tmp_path / "report.html", tmp_path / "run"
    screen(V1 / "cells.parquet", bundles["v1"], run, perturb="delete", max_cells=4)
    assert run_command(["report", str(run), "--out", str(out), "--min-cells", "2", "--no-embed"]) == 0
    assert f"{out}: " in capfd.readouterr().err
    for wrong, words in (("report.pdf", "ends in .html"), (str(run / "r.html"), "lies inside the run")):
        assert run_command(["report", str(run), "--out", wrong]) == 2
        assert words in capfd.readouterr().err
    assert run_command(["report", str(run), "--out", str(out), "--by", "nothing"]) == 2


def test_a_training_that_diverges_has_failed_and_was_no_bad_input(bundles, tmp_path, capfd):
    shape = ["--layers", "1", "--width", "16", "--heads", "1", "--inner", "16", "--log-every", "1", "--workers", "0"]
    files = [str(GOLDEN / "v1/cells.parquet"), "--vocabulary", str(bundles["v1"] / "vocabulary.parquet")]
    line = ["pretrain", *files, "--out", str(tmp_path / "b"), *shape, "--learning-rate", "1e30", "--batch-tokens", "64"]
    assert run_command(line) == 1
    assert "lower the learning rate" in capfd.readouterr().err
