"""What is recorded, printed or refused holds no key of a URL."""

import pickle

import pytest

from rankshift.screen.errors import InputError, Interrupted, in_python, python_words, redacted

HIDDEN = [
    ("s3://AKIA:SECRET@lab/run", "s3://***@lab/run"),
    ("s3:/AKIA:SECRET@lab/run", "s3:/***@lab/run"),  # as Path() writes it
    ("s3://AKIA:SE/CR+ET=@lab/a/b", "s3://***@lab/a/b"),
    ("abfs://:SECRET@account/container", "abfs://***@account/container"),
    ("https://user:SECRET@host/x", "https://***@host/x"),
    (
        "s3://lab/run?region=eu&secret_key=SECRET&access_key=AKIA",
        "s3://lab/run?region=eu&secret_key=***&access_key=***",
    ),
    ("abfs://lab@acct/x?sv=1&sig=SECRET&se=2", "abfs://lab@acct/x?sv=1&sig=***&se=2"),
    ("screen s3://AKIA:SECRET@lab/c --out s3://AKIA:SECRET@lab/r", "screen s3://***@lab/c --out s3://***@lab/r"),
    ("['s3://AKIA:SECRET@lab/c', 's3://lab/a@b']", "['s3://***@lab/c', 's3://lab/a@b']"),
    ("cannot parse 's3://AKIA:SECRET@lab/c'", "cannot parse 's3://***@lab/c'"),
]
KEPT = [
    "s3://lab/run",
    "s3://lab/a@b:c",
    "abfs://container@account.dfs.core.windows.net/x",
    "http://127.0.0.1:8265",
    "tcp://10.0.0.1:4711",
    "SELECT a:b@c FROM shifts WHERE token = 3",
    "ana@host:4711 --where 'key = 1'",
]


@pytest.mark.parametrize(("text", "shown"), HIDDEN)
def test_keys_are_left_out(text, shown):
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize("text", KEPT)
def test_what_holds_no_key_stays_as_it_is(text):
    assert redacted(text) == text


@pytest.mark.parametrize("kind", [InputError, Interrupted])
def test_refusals_hold_none_also_behind_a_process_boundary(kind):
    error = pickle.loads(pickle.dumps(kind("s3://AKIA:SECRET@lab is gone")))
    assert str(error) == "s3://***@lab is gone"


@pytest.mark.parametrize(
    ("said", "in_words"),
    [
        (
            "run exists: continue it with --resume, or give another --out",
            "run exists: continue it with resume=True, or give another out",
        ),
        ("give --gene-column feature_id", "give gene_column='feature_id'"),
        ("--by and --per-cell say how: add --gene-shifts", "by and per_cell=True say how: add gene_shifts=True"),
        ("make the bundle with `rankshift bundle --names`", "make the bundle with `rankshift bundle --names`"),
        ("a line -- with dashes, s3://lab/run--x", "a line -- with dashes, s3://lab/run--x"),
    ],
)
def test_python_is_told_of_keywords(said, in_words):
    assert python_words(said) == in_words

    def refuse() -> None:
        """Say no."""
        raise InputError(said)

    spoken = in_python(refuse)
    assert spoken is in_python(refuse)
    assert spoken.__doc__ == refuse.__doc__
    with pytest.raises(InputError) as refused:
        spoken()
    assert str(refused.value) == in_words
