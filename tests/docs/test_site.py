"""The pages of the site, and the files beside them that nobody runs here: what they name exists."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPLOY = ROOT / "docs" / "deploy"


def _commands(page: Path) -> list[list[str]]:
    """The words of every command of ours in the indented blocks and inline code of a page."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^    (rankshift .*)$", text, re.M) + re.findall(r"`(rankshift [^`\n]+)`", text)
    return [shlex.split(line.split("  #")[0].replace("…", ""))[1:] for line in lines]


@pytest.mark.parametrize("page", ["faq.md", "install.md"])
def test_commands_of_a_page_have_the_options_that_they_show(page: str) -> None:
    from rankshift.jobs.cli.entry import app  # start-up time: the other tests need no command line

    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = _commands(ROOT / "docs" / page)
    assert shown
    for verb, *words in shown:
        known = {name for given in verbs[verb].params for name in given.opts}
        assert {word for word in words if word.startswith("--")} <= known, (verb, words)


def test_every_page_is_on_the_site() -> None:
    listed = set(re.findall(r": ([\w/]+\.md)$", (ROOT / ".ci" / "mkdocs.yml").read_text(), re.M))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages | {"index.md"}


def test_the_image_copies_what_is_there_and_installs_extras_that_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for name in line.split()]
    assert {"pyproject.toml", *PROJECT["license-files"][:1], PROJECT["readme"], "kernels", "screen", "jobs"} <= {
        *copied
    }
    assert all((ROOT / name).exists() for name in copied)
    extras = {name for line in re.findall(r"EXTRAS=(\S+)", text) for name in line.split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])
    assert not re.search(r"^ADD |:latest", text, re.M)


def test_the_manifest_is_a_cluster_whose_machines_share_token_data_and_image() -> None:
    made = yaml.safe_load((DEPLOY / "raycluster.yaml").read_text())
    assert (made["apiVersion"], made["kind"]) == ("ray.io/v1", "RayCluster")
    groups = [made["spec"]["headGroupSpec"], *made["spec"]["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    (head, *workers) = [container for pod in pods for container in pod["containers"]]
    assert workers
    for worker in workers:
        assert all(worker[name] == head[name] for name in ("image", "env", "volumeMounts"))
        assert int(worker["resources"]["limits"]["nvidia.com/gpu"]) == 1
    assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} == {variable["name"] for variable in head["env"]}
    for pod in pods:
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "docs" / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert f"## {PROJECT['version']}" in (ROOT / "docs" / "changelog.md").read_text()
