"""Finding one's way at the command line: version, help, completion, and the defaults that help promises."""

import re
from dataclasses import fields
from importlib.metadata import version

import pytest

from rankshift.jobs.cli import run_command
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.pretraining.options import Pretraining
from rankshift.screen.stats.options import StatOptions


@pytest.mark.slow
def test_the_version_is_that_of_the_installed_package(capfd):
    assert run_command(["--version"]) == 0
    assert capfd.readouterr().out == f"rankshift {version('rankshift')}\n"


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_is_asked_for_in_any_way(words, capfd):
    assert run_command(words) == 0
    assert re.search(r"^  screen +Perturb genes in cells", capfd.readouterr().out, re.MULTILINE)


def test_help_of_a_verb_is_the_same_page_either_way(capfd):
    pages = []
    for words in (["help", "pool", "start"], ["pool", "start", "-h"]):
        assert run_command(words) == 0
        pages.append(capfd.readouterr().out)
    assert pages[0] == pages[1]
    assert "Usage: rankshift pool start" in pages[0]


@pytest.mark.parametrize("words", [[], ["pool"]])
def test_a_bare_call_is_bad_usage_and_shows_the_help_as_a_page(words, capfd):
    assert run_command(words) == 2
    page = capfd.readouterr().err.splitlines()
    assert page[0].startswith("Usage: rankshift")
    assert len(page) > 8


def test_a_shell_completes_verbs(capfd, monkeypatch):
    monkeypatch.setenv("_RANKSHIFT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "rankshift re")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):  # so does click answer the shell
        run_command([])
    assert capfd.readouterr().out.split() == ["resume", "report"]


@pytest.mark.parametrize(
    ("verb", "options"),
    [("pretrain", Pretraining), ("finetune", Finetuning), ("stats", StatOptions), ("report", StatOptions)],
)
def test_help_names_the_default_that_is_taken(verb, options, capfd):
    assert run_command(["help", verb]) == 0
    page = " ".join(capfd.readouterr().out.split())
    shown = dict(re.findall(r" --([a-z-]+) (?:<\w+>|[A-Z]+) (.*?)(?= --[a-z-]+[ ,]|$)", page))
    checked = 0
    for field in fields(options):
        said = re.search(r"[Dd]efault: ([^\s\]]*[^\s\].])", shown.get(field.name.replace("_", "-"), ""))
        if isinstance(field.default, int | float | str) and not isinstance(field.default, bool) and field.default != "":
            if field.name in ("clip", "save_every") or field.name.replace("_", "-") not in shown:
                continue
            assert said is not None, field.name
            assert said.group(1) == str(field.default), field.name
            checked += 1
    assert checked >= 3
