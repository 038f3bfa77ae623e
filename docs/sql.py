"""Puts the answers into the cookbook docs/sql.md: every `$ rankshift query …` of the page is asked and its output replaced.

Run it from the root of the repository: python docs/sql.py FOLDER. The commands on the page that make its runs are run first,
in FOLDER, where their results are not there yet (some minutes).
"""

import argparse
import os
import re
import shlex
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

from rankshift.jobs.cli import run_command

PAGE = Path(__file__).with_suffix(".md")
BLOCK = re.compile(r"^```\n(\$ rankshift .*?)^```$", re.M | re.S)
ASKED = re.compile(r'(\$ rankshift query [^"]*"(?:[^"\\]|\\.)*"[^\n]*\n)(.*)', re.S)
LISTED = re.compile(r"^\$ (cat > \S+ <<END\n.*?^END$|rankshift (?:[^\n]*\\\n)*[^\n]*)", re.M | re.S)


def questions(text: str) -> list[tuple[str, str]]:
    """Every question of the page as (command line, answer on the page)."""
    found = (ASKED.fullmatch(block) for block in BLOCK.findall(text))
    return [(m[1].removeprefix("$ ").rstrip("\n"), m[2].rstrip("\n")) for m in found if m and m[2].strip()]


def making(text: str) -> list[str]:
    """The commands under "The runs of this page", in their order."""
    part = text.split("## The runs of this page\n")[1].split("\n## ")[0]
    return LISTED.findall(part)


def make(folder: Path, commands: list[str]) -> None:
    """Run the commands in `folder`, but for those whose --out is there."""
    folder.mkdir(parents=True, exist_ok=True)
    with chdir(folder):
        for command in commands:
            if command.startswith("cat"):
                head, *rows = command.splitlines()
                path = Path(head.split()[2])
                path.parent.mkdir(exist_ok=True)
                path.write_text("\n".join([*rows[:-1], ""]))
                continue
            words = shlex.split(command.replace("\\\n", " "))[1:]
            out = words[words.index("--out") + 1] if "--out" in words else None
            wanted = out is None or words[0] == "demo" or not Path(out).exists()
            if wanted and run_command(words):
                raise SystemExit(f"failed: {command}")


def answer(command: str, folder: Path) -> str:
    """What a command prints in `folder`, on both streams, without blanks at line ends."""
    out, err = TextIOWrapper(BytesIO(), encoding="utf-8", write_through=True), StringIO()
    with chdir(folder), redirect_stdout(out), redirect_stderr(err):
        code = run_command(shlex.split(command)[1:])
    shown = "\n".join(line.rstrip() for line in (out.buffer.getvalue().decode() + err.getvalue()).splitlines())
    if code:
        raise SystemExit(f"{command}\n{shown}")
    return shown


def answered(text: str, ask: Callable[[str], str]) -> str:
    """The page with every answer replaced."""

    def replace(block: re.Match) -> str:
        asked = ASKED.fullmatch(block[1])
        if asked is None or not asked[2].strip():
            return block[0]
        return f"```\n{asked[1]}{ask(asked[1].removeprefix('$ '))}\n```"

    return BLOCK.sub(replace, text)


def main() -> None:
    """Make the runs and refresh the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    text = PAGE.read_text()
    make(folder, making(text))
    PAGE.write_text(answered(text, lambda command: answer(command, folder)))


if __name__ == "__main__":
    main()
