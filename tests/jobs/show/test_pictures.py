"""Pictures of embeddings: what a colouring makes of a column, that the same vectors give the same picture, and the files."""

import sys

import numpy as np
import pytest
from matplotlib import image

from rankshift.jobs.cli import run_command
from rankshift.jobs.show.colouring import PALETTE, SHAPES, Colouring
from rankshift.jobs.show.embedding_map import draw_map, project
from rankshift.jobs.show.heat_map import draw_heat_map, sample
from rankshift.jobs.show.pictures import Pictures
from rankshift.screen.errors import InputError


def two_clouds(n: int = 30) -> tuple[np.ndarray, list[str]]:
    """Vectors in two clouds far from each other, and which cloud each is of."""
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(n, 12)).astype(np.float32)
    vectors[::2] += 40
    return vectors, ["far" if i % 2 == 0 else "near" for i in range(n)]


def test_names_have_a_colour_each_then_a_shape():
    colouring = Colouring(title="type", values=[f"t{i:02d}" for i in range(18)])
    assert not colouring.is_scale
    assert len({(colour, shape) for _, colour, shape in colouring.legend}) == 18
    assert [colour for _, colour, _ in colouring.legend[:9]] == [*PALETTE, PALETTE[0]]
    assert {shape for _, _, shape in colouring.legend[:8]} == {SHAPES[0]}


def test_numbers_are_ordered_as_numbers_and_none_is_last():
    colouring = Colouring(title="hours", values=["72", None, "8", "0"])
    assert [name for name, _, _ in colouring.legend] == ["0", "8", "72", "none"]
    assert colouring.names == ["72", "none", "8", "0"]


def test_of_very_many_names_the_rare_ones_share_a_colour():
    values = [f"donor{i}" for i in range(60) for _ in range(60 - i)]
    colouring = Colouring(title="donor", values=values)
    most = len(PALETTE) * len(SHAPES)
    assert len(colouring.legend) == most
    assert colouring.legend[-1][0] == f"{60 - most + 1} others"
    assert colouring.names[0] == "donor0"
    assert colouring.names[-1] == colouring.legend[-1][0]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.5, 1.5, None], True),
        (list(range(30)), True),
        ([1, 2, 2, 3], False),
        ([True, False], False),
        (["1", "2"], False),
        ([None, None], False),
    ],
)
def test_many_numbers_are_a_scale(values, scale):
    colouring = Colouring(title="x", values=values)
    assert colouring.is_scale == scale
    if scale:
        np.testing.assert_array_equal(np.isnan(colouring.numbers), [v is None for v in values])


def test_principal_components_are_those_of_numpy():
    vectors, _ = two_clouds()
    found = project(vectors, "pca")
    u, s, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :2] * s[:2]), atol=1e-3)


@pytest.mark.slow
def test_a_umap_is_the_same_every_time_and_keeps_clouds_apart():
    vectors, names = two_clouds()
    first, second = project(vectors), project(vectors)
    np.testing.assert_array_equal(first, second)
    far = np.array(names) == "far"
    centres = first[far].mean(0), first[~far].mean(0)
    spread = max(np.linalg.norm(first[of] - c, axis=1).max() for of, c in ((far, centres[0]), (~far, centres[1])))
    assert np.linalg.norm(centres[0] - centres[1]) > spread


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["names", "scale", "none"])
def test_the_same_vectors_give_the_same_picture(kind, tmp_path):
    vectors, names = two_clouds()
    values = {"names": names, "scale": vectors[:, 0].astype(float).tolist(), "none": None}[kind]
    colouring = None if values is None else Colouring(title=kind, values=values)
    for turn in "ab":
        draw_map(vectors, colouring, tmp_path / f"map-{turn}.png", projection="pca")
        draw_heat_map(vectors, colouring, tmp_path / f"heat-{turn}.png")
    for name in ("map", "heat"):
        a, b = ((tmp_path / f"{name}-{turn}.png").read_bytes() for turn in "ab")
        assert a == b


@pytest.mark.parametrize(("suffix", "begins"), [(".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_vector_formats(suffix, begins, tmp_path):
    vectors, names = two_clouds(8)
    draw_map(vectors, Colouring(title="cloud", values=names), tmp_path / f"map{suffix}", projection="pca")
    assert (tmp_path / f"map{suffix}").read_bytes().startswith(begins)


def test_a_map_shows_every_point_in_the_colour_of_its_name(tmp_path):
    vectors, names = two_clouds(8)
    draw_map(vectors, Colouring(title="cloud", values=names), tmp_path / "x.png", projection="pca", size=300)
    pixels = (image.imread(tmp_path / "x.png")[..., :3] * 255).round().astype(int).reshape(-1, 3)
    for colour in PALETTE[:2]:
        want = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        faded = np.round(0.85 * want + 0.15 * 255).astype(int)
        assert (np.abs(pixels - faded).max(1) <= 1).sum() > 1000


def test_neighbours_in_a_heat_map_are_of_one_cloud(tmp_path):
    vectors, names = two_clouds(40)
    draw_heat_map(vectors, Colouring(title="cloud", values=names), tmp_path / "x.png")
    pixels = (image.imread(tmp_path / "x.png")[..., :3] * 255).round().astype(int)
    blue, orange = ([int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in PALETTE[:2])
    bar = next(
        column
        for column in np.moveaxis(pixels, 1, 0)
        if (np.abs(column - blue).max(1) <= 1).sum() > 200 and (np.abs(column - orange).max(1) <= 1).sum() > 200
    )
    of = [("b" if np.abs(p - blue).max() <= 1 else "o" if np.abs(p - orange).max() <= 1 else "") for p in bar]
    assert "".join(of).replace("bo", "b o").replace("ob", "o b").count(" ") == 1


def test_flat_dimensions_and_chains_do_not_stop_a_heat_map(tmp_path):
    vectors = np.cumsum(np.arange(1200, dtype=np.float32))[:, None] * np.ones((1, 3), np.float32)
    vectors[:, 2] = 7
    draw_heat_map(vectors, None, tmp_path / "chain.png")
    assert (tmp_path / "chain.png").stat().st_size > 0


def test_samples_are_the_same_every_time():
    assert sample(5, 9).tolist() == sample(5, None).tolist() == [0, 1, 2, 3, 4]
    some = sample(1000, 10)
    assert some.tolist() == sorted(set(some.tolist())) == sample(1000, 10).tolist()
    assert len(some) == 10


def test_without_the_package_a_umap_is_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r'pip install "rankshift\[plots\]", or use --projection pca'):
        Pictures(map=tmp_path / "x.png")
    Pictures(map=tmp_path / "x.png", projection="pca")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "x.jpg"], "--plot x.jpg is neither of .png, .pdf, .svg"),
        (["--plot", "x.png", "--projection", "tsne"], "--projection 'tsne' is unknown"),
        (["--color", "cell_type"], "--color is for pictures"),
        (["--heat-map", "x.png", "--color", "nowhere"], "--color 'nowhere' is not a column: the columns are cell_id"),
        (["--heat-map", "x.png", "--level", "gene", "--color", "length"], "the columns are ensembl_id, symbol, cells"),
        (["--heat-map", "x.png", "--level", "attention"], "--heat-map does not go with --level attention"),
    ],
)
def test_what_is_refused(options, message, golden, bundles, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["embed", str(golden / "v1/cells.parquet"), "--bundle", str(bundles["v1"]), "--out", "x.parquet"]
    assert run_command(line + options) == 2
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_pictures_beside_the_file(golden, bundles, tmp_path, capfd):
    line = ["embed", golden / "v1/cells.parquet", "--bundle", bundles["v1"], "--out", tmp_path / "x.h5ad"]
    pictures = ["--plot", tmp_path / "map.png", "--heat-map", tmp_path / "heat.svg", "--projection", "pca"]
    assert run_command([str(a) for a in (*line, *pictures, "--color", "cell_type")]) == 0
    assert sorted(f.name for f in tmp_path.iterdir()) == ["heat.svg", "map.png", "x.h5ad"]
    assert "pca of 12 cells, layer -1" in capfd.readouterr().err
