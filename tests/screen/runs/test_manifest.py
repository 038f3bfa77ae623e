"""The manifest: what version 1 wrote is read and resumed, run.json stays as it was, and what is no manifest is refused."""

import json
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest

from rankshift.screen import InputError, Run, run
from rankshift.screen.runs.manifest import GenesKept, Manifest, NoiseFloor, Route
from rankshift.screen.stats.statistics import statistics
from support import GOLDEN

V1 = GOLDEN / "run_v1"  # written by version 0.1 of the program, with schema 1


def test_a_run_of_version_1_is_read_as_typed_values():
    manifest = Manifest.read(V1)
    assert (manifest.shards, manifest.lists, manifest.embedding) == (3, 90, "cell")
    assert (manifest.perturb.kind, manifest.perturb.how, manifest.perturb.genes) == ("delete", "each", None)
    assert manifest.route == Route(key="disease", start="dcm", goal="nf")
    assert manifest.gene_shifts == GenesKept(by=None, per_cell=False)
    assert manifest.screened is not None
    assert manifest.screened.cells.count == 2
    assert manifest.screened.bundle.weights_sha256.startswith("30fd00c07938")
    assert (manifest.screened.token_budget, manifest.screened.shard_tokens) == (65_536, 2000)
    assert (manifest.screened.dtype, manifest.screened.layer, manifest.screened.layers) == ("float32", -1, 2)
    assert manifest.screened.dtype_choice == {"reason": "fewer than 1000 lists"}
    assert [len(manifest.states[name]) for name in ("dcm", "nf")] == [32, 32]
    assert manifest.noise_floor is not None
    assert isinstance(manifest.noise_floor["shift_nf"], NoiseFloor)
    assert manifest.measures == list(manifest.noise_floor) == ["similarity", "shift_dcm", "shift_nf"]


def test_the_same_entries_are_there_by_their_keys_and_cannot_be_changed():
    manifest, written = Manifest.read(V1), json.loads((V1 / "run.json").read_text())
    assert dict(manifest) == written
    assert list(manifest) == list(written)
    assert manifest["dtype"] == "float32"
    assert manifest.get("nothing") is None
    assert json.loads(manifest.text()) == written
    with pytest.raises(TypeError):
        manifest["dtype"] = "float16"  # type: ignore[index]


def test_entries_of_a_later_version_are_kept(tmp_path):
    written = json.loads((V1 / "run.json").read_text()) | {"humidity": [0.5]}
    (tmp_path / "run.json").write_text(json.dumps(written))
    Manifest.read(tmp_path).replace(noise_floor=None).write(tmp_path)
    del written["noise_floor"]
    assert json.loads((tmp_path / "run.json").read_text()) == written


def test_a_run_of_version_1_answers_queries_and_is_judged():
    old = Run.open(V1)
    assert old.complete
    assert old.sql("SELECT count(*) AS n FROM shifts")["n"].to_pylist() == [90]
    assert old.sql("SELECT dtype, goal, shards_committed FROM run").to_pylist() == [
        {"dtype": "float32", "goal": "nf", "shards_committed": 3}
    ]
    assert len(old.sql("SELECT * FROM effects LIMIT 3")) == 3
    judged = statistics(old, "goal")
    assert judged.summary["rows"] == 90


def test_a_run_of_version_1_is_resumed_to_the_same_values(bundles, tmp_path):
    shutil.copytree(V1, tmp_path / "run")
    part = tmp_path / "run/shifts/shard-000001.parquet"
    before = pq.read_table(part).to_pandas()
    part.unlink()
    (tmp_path / "run/commits/shard-000001.json").unlink()
    asked = {"perturb": "delete", "state_key": "disease", "start": "dcm", "goal": "nf", "gene_shifts": True}
    again = run(
        GOLDEN / "v1/cells.parquet",
        bundles["v1"],
        tmp_path / "run",
        resume=True,
        max_cells=2,
        shard_tokens=2000,
        **asked,
    )
    assert again.complete
    assert len(again.sql("SELECT * FROM shifts")) == 90
    pd.testing.assert_frame_equal(pq.read_table(part).to_pandas(), before, rtol=0, atol=1e-6)


def test_published_results_have_a_manifest_that_says_only_what_is_known(tmp_path):
    Manifest.published(states=["nf"], route=["disease", "dcm", "nf"], how="each", gene_shifts=None).write(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "schema_version": 1,
        "perturb": {"how": "each"},
        "gene_shifts": None,
        "states": {"nf": []},
        "route": ["disease", "dcm", "nf"],
        "shards": 1,
    }
    found = Manifest.read(tmp_path)
    assert found.screened is None
    with pytest.raises(InputError, match="was made without a model: give the --out of a screen"):
        _ = Run.open(tmp_path).screened


def changed(**entries):
    return json.dumps(json.loads((V1 / "run.json").read_text()) | entries).encode()


def without(*keys):
    return json.dumps({k: v for k, v in json.loads((V1 / "run.json").read_text()).items() if k not in keys}).encode()


DAMAGED = {
    "empty": (b"", "cannot be read"),
    "truncated": ((V1 / "run.json").read_bytes()[:700], "cannot be read"),
    "utf-16": ((V1 / "run.json").read_text().encode("utf-16"), "cannot be read"),
    "deep": (b"[" * 100_000, "cannot be read"),
    "list": (b"[1, 2]", r"it holds \[1, 2\], an object is needed"),
    "text": (b'"run"', "an object is needed"),
    "null": (b"null", "an object is needed"),
    "foreign": (b'{"name": "a package"}', "has schema None, this version reads 1"),
    "later": (changed(schema_version=2), "has schema 2, this version reads 1"),
    "odd version": (changed(schema_version=[1]), r"has schema \[1\], this version reads 1"),
    "no shards": (without("shards"), "it has no shards"),
    "no dtype": (without("dtype"), "it has no dtype"),
    "shards in words": (changed(shards="four"), 'shards is "four", a whole number is needed'),
    "shards true": (changed(shards=True), "shards is true, a whole number is needed"),
    "perturb a list": (changed(perturb=["delete"]), r'perturb is \["delete"\], an object is needed'),
    "gene in words": (changed(perturb={"how": "each", "genes": ["A"]}), 'genes is "A", a whole number is needed'),
    "short route": (changed(route=["disease", "dcm"]), "a key and two states or more are needed"),
    "state in words": (changed(states={"nf": ["0.5"]}), 'states.nf is "0.5", a number is needed'),
    "bundle a path": (changed(bundle="/data/bundle"), 'bundle is "/data/bundle", an object is needed'),
    "floor a number": (changed(noise_floor={"similarity": 0.1}), "similarity is 0.1, an object is needed"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_manifest_is_refused_in_one_line(name, tmp_path):
    content, message = DAMAGED[name]
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        Run.open(tmp_path)
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_a_folder_in_the_place_of_the_manifest_and_no_folder_at_all_are_refused(tmp_path):
    (tmp_path / "run/run.json").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be read"):
        Run.open(tmp_path / "run")
    with pytest.raises(InputError, match="is not a run folder"):
        Run.open(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be read"):
        Run.open(tmp_path / "file")
