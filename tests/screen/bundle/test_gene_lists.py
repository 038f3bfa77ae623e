"""Genes as users write them into options and files: every gene is found, or a line says what is wrong."""

import json
from dataclasses import replace

import pytest

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.bundle.gene_lists import gene_sets, panels_of, resolve_genes, said_of
from rankshift.screen.errors import InputError


@pytest.fixture
def bundle(bundles):
    return Bundle.open(bundles["v1"])


@pytest.fixture
def three(bundle):
    """Three genes: Ensembl ids and tokens."""
    genes = [name for name in bundle.vocabulary.ensembl_id if name.startswith("ENSG")][:3]
    return genes, tuple(bundle.vocabulary.by_id[gene] for gene in genes)


FILES = {
    "one a line": lambda g: "\n".join(g).encode(),
    "byte order mark": lambda g: b"\xef\xbb\xbf" + "\n".join(g).encode(),
    "utf-16": lambda g: "\n".join(g).encode("utf-16"),
    "windows line ends": lambda g: "\r\n".join(g).encode(),
    "quotes": lambda g: "\n".join(f'"{x}"' for x in g).encode(),
    "several on one line": lambda g: ", ".join(g).encode(),
    "spaces": lambda g: " ".join(g).encode(),
    "uneven lines": lambda g: f"{g[0]} {g[1]}\n{g[2]}\n".encode(),
    "comments": lambda g: f"# hits of é\n{g[0]}  # strongest, beside {g[1]}\n{g[1]}\n\n{g[2]}\n".encode(),
    "table": lambda g: "".join(f"{x},{i}.5,up\n" for i, x in enumerate(g)).encode(),
}


@pytest.mark.parametrize("form", FILES)
def test_all_genes_of_a_file_are_read(form, three, bundle, tmp_path):
    genes, tokens = three
    (tmp_path / "genes.txt").write_bytes(FILES[form](genes))
    assert resolve_genes(str(tmp_path / "genes.txt"), bundle) == (tokens, [])


def test_a_table_of_ids_and_symbols_is_its_first_column(three, bundle, tmp_path):
    genes, tokens = three
    rows = [f"{gene}\t{bundle.vocabulary.symbol[token]}" for gene, token in zip(genes, tokens, strict=True)]
    (tmp_path / "genes.tsv").write_text("\n".join(rows))
    assert resolve_genes(str(tmp_path / "genes.tsv"), bundle) == (tokens, [])


def test_a_list_in_json_is_read(three, bundle, tmp_path):
    (tmp_path / "genes.json").write_text(json.dumps(three[0]))
    assert resolve_genes(str(tmp_path / "genes.json"), bundle)[0] == three[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda g: f"{g[0]},{g[1]}\n{g[1]},{g[2]}\n".encode(), "2 genes on a line .* that could be a table"),
        (lambda g: g[0].encode() + b"\xff\n", "is not UTF-8 text"),
        (lambda g: b"\n# nothing\n", "names no gene"),
        (lambda g: g[0].encode() + b"\x00", "it holds zero bytes"),
    ],
)
def test_a_file_that_can_be_read_in_two_ways_or_none_is_refused(content, message, three, bundle, tmp_path):
    (tmp_path / "genes.txt").write_bytes(content(three[0]))
    with pytest.raises(InputError, match=message):
        resolve_genes(str(tmp_path / "genes.txt"), bundle)


@pytest.mark.parametrize("name", ["genes.txt", "lists/hits", "hits.CSV"])
def test_a_missing_file_is_called_one(name, bundle):
    with pytest.raises(InputError, match="no file that is there"):
        resolve_genes(name, bundle)


def test_more_genes_than_a_file_name_has_letters(bundle):
    genes = [name for name in bundle.vocabulary.ensembl_id if name.startswith("ENSG")]
    asked = ",".join(genes)
    assert len(asked) > 1000
    assert len(resolve_genes(asked, bundle)[0]) == len(genes)
    assert panels_of(asked, bundle) == {}


def test_retired_ids_are_found_by_the_aliases(bundle):
    for alias, gene in bundle.aliases.items():
        assert resolve_genes([alias.lower(), alias], bundle)[0] == (bundle.vocabulary.by_id[gene],)


@pytest.fixture
def human(bundle):
    """The bundle with symbols of people's genes instead of its own."""
    names = [None] * bundle.vocabulary.size
    places = [bundle.vocabulary.by_id[gene] for gene in list(bundle.vocabulary.by_id)[:8]]
    for place, name in zip(places, ["LYZ", "LY9", "CST3", "CD14", "C9orf72", "MAX", "Abc", "ABC"], strict=True):
        names[place] = name
    vocabulary = replace(bundle.vocabulary, symbol=names)
    return replace(bundle, vocabulary=vocabulary), dict(zip(names_of(vocabulary), places, strict=True))


def names_of(vocabulary):
    return [name for name in vocabulary.symbol if name is not None]


def test_a_symbol_counts_in_any_case_where_it_then_names_one_gene(human):
    bundle, token = human
    assert resolve_genes(["lyz", "C9ORF72", "Cd14"], bundle) == ((token["LYZ"], token["C9orf72"], token["CD14"]), [])
    assert resolve_genes("Abc,ABC", bundle) == ((token["Abc"], token["ABC"]), [])
    assert resolve_genes(["abc", "LYZ"], bundle) == ((token["LYZ"],), ["abc"])


def test_what_was_perhaps_meant_is_said(human):
    bundle, _ = human
    with pytest.raises(InputError, match=r"none of the 1 genes is in the vocabulary \(LZY\): did you mean LYZ\?"):
        resolve_genes("LZY", bundle)
    with pytest.raises(InputError, match="give Ensembl ids or symbols of the bundle"):
        resolve_genes("ENSG99999999999", bundle)
    assert said_of(["CST33", "QQQQ"], bundle) == (
        "2 genes are not in the vocabulary and are left out: CST33 (did you mean CST3?), QQQQ"
    )


def test_words_of_a_table_are_no_genes_in_another_case(human, tmp_path):
    bundle, token = human
    (tmp_path / "t.csv").write_text("LYZ,max\nCST3,max\n")
    assert resolve_genes(str(tmp_path / "t.csv"), bundle) == ((token["LYZ"], token["CST3"]), [])


def test_a_gmt_holds_panels_by_the_names_of_its_sets(three, bundle, tmp_path):
    genes, tokens = three
    (tmp_path / "sets.gmt").write_text(
        f"ONE\thttp://one\t{genes[0]}\t{genes[1]}\nTWO\tna\t{genes[1]}\t{genes[2]}\tNOT\t\n\n"
    )
    assert resolve_genes(str(tmp_path / "sets.gmt"), bundle) == (tokens, ["NOT"])
    assert panels_of(str(tmp_path / "sets.gmt"), bundle) == {"ONE": genes[:2], "TWO": [genes[1], genes[2], "NOT"]}
    (tmp_path / "more.txt").write_text(genes[0])
    both = f"{tmp_path / 'sets.gmt'},{tmp_path / 'more.txt'}"
    assert list(panels_of(both, bundle)) == ["ONE", "TWO", "more"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ONE\tna\n", "line 1 has no genes"),
        ("ONE\tna\tA\nONE\tna\tB\n", "two sets called ONE"),
        ("\n", "names no gene set"),
        ("A B C\n", "line 1 has no genes"),
    ],
)
def test_what_is_no_gmt_is_refused(text, message, tmp_path):
    (tmp_path / "sets.gmt").write_text(text)
    with pytest.raises(InputError, match=message):
        gene_sets(tmp_path / "sets.gmt")
