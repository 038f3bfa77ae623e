"""The vocabulary table and the foreign gene files it is made from."""

import collections
import json
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankshift.screen.errors import InputError
from rankshift.screen.files.foreign import read_mapping
from rankshift.screen.genes.vocabulary import Vocabulary, make_vocabulary, plain_id, read_vocabulary

TOKENS = {"<pad>": 0, "<mask>": 1, "ENSG00000000003": 2, "ENSG00000000005": 3}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", '{"a": 1, "b": 2}'),
        ("t.csv", "a,1\nb,2\n"),
        ("t.csv", "gene,token\na,1\nb,2\n"),
        ("t.csv", "any header,of mine\r\na,1\r\nb,2\r\n"),
        ("t.tsv", "a\t1\n\nb\t2"),
    ],
)
def test_text_files_read_as_one_mapping(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_mapping(tmp_path / name) == {"a": 1, "b": 2}


def test_a_header_over_text_values_is_left_out_and_a_first_entry_is_not(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("symbol,ensembl_id\nTSPAN6,ENSG00000000003\n")
    assert read_mapping(path) == {"TSPAN6": "ENSG00000000003"}
    path.write_text("TSPAN6,ENSG00000000003\nTNMD,ENSG00000000005\n")
    assert list(read_mapping(path)) == ["TSPAN6", "TNMD"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [np.int16, np.int64, np.float64, int, float])
def test_pickled_dictionaries_of_numpy_scalars_are_read(tmp_path, protocol, kind):
    path = tmp_path / "token_dictionary.pkl"
    path.write_bytes(pickle.dumps({"a": kind(1), "b": kind(7)}, protocol=protocol))
    assert read_mapping(path) == {"a": 1, "b": 7}
    assert type(read_mapping(path)["a"]) in (int, float)


def test_pickles_written_by_numpy_1_are_read(tmp_path):
    path = tmp_path / "old.pkl"
    path.write_bytes(pickle.dumps({"a": np.int16(5)}, protocol=2).replace(b"numpy._core.", b"numpy.core."))
    assert read_mapping(path) == {"a": 5}


def test_pickled_ordered_and_default_dictionaries_are_read(tmp_path):
    path = tmp_path / "d.pickle"
    path.write_bytes(pickle.dumps(collections.OrderedDict(a=1)))
    assert read_mapping(path) == {"a": 1}
    path.write_bytes(pickle.dumps(collections.defaultdict(list, a=2)))
    assert read_mapping(path) == {"a": 2}


class Exploit:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_pickle_that_would_run_code_is_refused_by_the_name_of_the_class(tmp_path):
    path, target = tmp_path / "d.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"a": Exploit(target)}))
    with pytest.raises(InputError, match=r"pickle wants to load (builtins\.getattr|pathlib.*)"):
        read_mapping(path)
    assert not target.exists()
    path.write_bytes(pickle.dumps({"a": Fraction(1, 2)}))
    with pytest.raises(InputError, match=r"fractions\.Fraction"):
        read_mapping(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.pkl", pickle.dumps({"a": 1, "b": 2})[:-6], "not a readable pickle"),
        ("d.pkl", pickle.dumps([1, 2]), "holds a list"),
        ("d.pkl", pickle.dumps({"a": [1]}), "value of a is a list"),
        ("d.pkl", b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        ("d.json", b"{'a': 1}", "not JSON"),
        ("d.json", b"[1]", "holds a list"),
        ("d.json", b"{}", "no entry"),
        ("d.csv", b"a,1,x\n", "line 1 has 3 columns"),
        ("d.csv", b"a,1\na,2\n", "gives a both 1 and 2"),
        ("d.csv", b"\xff\xfe", "not UTF-8"),
        ("d.xlsx", b"", "gene files end in"),
    ],
)
def test_files_that_are_no_mapping_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_mapping(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        read_mapping(tmp_path / "none.json")


def test_genes_are_found_by_id_version_case_and_symbol():
    vocabulary = make_vocabulary(TOKENS, names={"TSPAN6": "ENSG00000000003", "TNMD": "ENSG00000000005"})
    assert [vocabulary.token_of(g) for g in ("ENSG00000000003", "ENSG00000000003.15", "ensg00000000003", "TNMD")] == [
        2,
        2,
        2,
        3,
    ]
    assert [vocabulary.token_of(g) for g in ("ENSG00000000004", "<pad>", "", "tnmd")] == [None] * 4
    assert vocabulary.gene_of[2] == "ENSG00000000003"
    assert vocabulary.symbol_of == [None, None, "TSPAN6", "TNMD"]
    assert vocabulary.is_gene.tolist() == [False, False, True, True]


def test_a_symbol_of_two_genes_finds_neither():
    table = Vocabulary(
        token=np.arange(4), ensembl_id=list(TOKENS), median=np.full(4, np.nan), symbol=[None, None, "PAR1", "PAR1"]
    )
    assert table.token_of("PAR1") is None
    assert table.token_of("ENSG00000000005") == 3


def test_of_several_symbols_the_first_is_kept():
    assert make_vocabulary(TOKENS, names={"NEW": "ENSG00000000003", "OLD": "ENSG00000000003"}).symbol[2] == "NEW"


def test_version_suffixes_go_and_other_dots_stay():
    assert plain_id(" ensg00000000003.15 ") == "ENSG00000000003"
    assert plain_id("RP11-34P13.7A") == "RP11-34P13.7A"


def test_the_table_survives_its_file(tmp_path):
    made = make_vocabulary(TOKENS, {"ENSG00000000005": 2.5}, {"TNMD": "ENSG00000000005"})
    made.write(tmp_path / "vocabulary.parquet")
    read = Vocabulary.read(tmp_path / "vocabulary.parquet")
    assert read.ensembl_id == list(TOKENS)
    assert read.token.dtype == np.int32
    np.testing.assert_array_equal(read.median, [np.nan, np.nan, np.nan, 2.5])
    assert read.symbol == [None, None, None, "TNMD"]
    assert pq.read_table(tmp_path / "vocabulary.parquet").column("median").null_count == 3
    assert read.tokens_sha256 == make_vocabulary(TOKENS).tokens_sha256


def test_rows_come_in_token_order_whatever_the_file_order(tmp_path):
    table = pa.table({"ensembl_id": ["ENSG2", "<mask>", "<pad>", "ENSG1"], "token": pa.array([3, 1, 0, 2], pa.int64())})
    pq.write_table(table, tmp_path / "v.parquet")
    read = Vocabulary.read(tmp_path / "v.parquet")
    assert read.ensembl_id == ["<pad>", "<mask>", "ENSG1", "ENSG2"]
    assert np.isnan(read.median).all()


def test_medians_and_names_complete_a_parquet_vocabulary(tmp_path):
    make_vocabulary(TOKENS, {"ENSG00000000003": 1.0, "ENSG00000000005": 2.0}).write(tmp_path / "v.parquet")
    (tmp_path / "m.json").write_text('{"ENSG00000000005": 3.5, "ENSG99999999999": 1.0}')
    (tmp_path / "n.json").write_text('{"TNMD": "ENSG00000000005"}')
    read = read_vocabulary(tmp_path / "v.parquet", tmp_path / "m.json", tmp_path / "n.json")
    assert read.median[2:].tolist() == [1.0, 3.5]
    assert read.symbol[3] == "TNMD"


def test_the_reference_pickle_and_json_are_the_same_vocabulary(golden, generation):
    root = golden / generation
    one = read_vocabulary(root / "token_dictionary.pkl", root / "medians.json", root / "gene_names.json")
    two = read_vocabulary(root / "vocabulary.json")
    assert one.ensembl_id == two.ensembl_id == list(json.loads((root / "vocabulary.json").read_text()))
    assert one.token_of("GENE0") == one.token_of(json.loads((root / "gene_names.json").read_text())["GENE0"])
    assert (one.special.cls is None) == (generation == "v1")


@pytest.mark.parametrize(
    ("tokens", "medians", "names", "message"),
    [
        ({"<pad>": 0, "<mask>": 1, "G1": 3}, None, None, "0..2, each once, but 3 stands where 2 should"),
        ({"<pad>": 0, "<mask>": 1, "G1": 1}, None, None, "0..2, each once"),
        ({"<pad>": 0, "G1": 1}, None, None, "no <mask>"),
        ({"<mask>": 0, "G1": 1}, None, None, "no <pad>"),
        ({"<pad>": 0, "<mask>": 1, "<cls>": 2}, None, None, "<cls> but no <eos>"),
        ({"<pad>": 0, "<mask>": 1, "G1": "two"}, None, None, "token of G1 is 'two'"),
        ({"<pad>": 0, "<mask>": 1, "G1": 2.0}, None, None, "token of G1 is 2.0"),
        (TOKENS, {"ENSG00000000003": 0.0}, None, "median of ENSG00000000003 is 0"),
        (TOKENS, {"ENSG00000000003": -1}, None, "median of ENSG00000000003 is -1"),
        (TOKENS, {"ENSG00000000003": "much"}, None, "'much', not a number"),
        (TOKENS, {"ENSG00000000003": 10**400}, None, "10+, not a number"),
        (TOKENS, {"ENSMUSG00000000001": 1.0}, None, "medians and vocabulary share no gene"),
        (TOKENS, None, {"ENSG00000000003": "TSPAN6"}, "names and vocabulary share no gene"),
    ],
)
def test_vocabularies_that_cannot_be_are_refused(tokens, medians, names, message):
    with pytest.raises(InputError, match=message):
        make_vocabulary(tokens, medians, names)


def test_a_name_that_occurs_twice_is_refused():
    with pytest.raises(InputError, match="names G1 twice"):
        Vocabulary(
            token=np.arange(4), ensembl_id=["<pad>", "<mask>", "G1", "G1"], median=np.full(4, np.nan), symbol=[None] * 4
        )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"token": [0, 1]}), "no column ensembl_id"),
        (pa.table({"token": ["a", "b"], "ensembl_id": ["<pad>", "<mask>"]}), "wrong type"),
        (pa.table({"token": [0, None], "ensembl_id": ["<pad>", "<mask>"]}), "rows without token"),
    ],
)
def test_tables_that_are_no_vocabulary_are_refused(tmp_path, table, message):
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(InputError, match=message):
        Vocabulary.read(tmp_path / "v.parquet")


def test_a_truncated_table_is_refused(tmp_path):
    path = tmp_path / "v.parquet"
    make_vocabulary(TOKENS).write(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_vocabulary(path)
