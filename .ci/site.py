"""Hooks of the site: its first page is README.md, and a link to a file that is no page becomes the name of that file."""

import re
from pathlib import Path
from posixpath import dirname, normpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add README.md as the first page, with its links as seen from docs/."""
    text = (ROOT / "README.md").read_text().replace("](docs/", "](").replace('src="docs/', 'src="')
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that leave docs/: README.md is the first page; the source files are not on the site."""
    folder = dirname(page.file.src_uri)

    def instead(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        if ":" in target:
            return found[0]
        place = normpath(f"docs/{folder}/{target}")
        if place == "README.md":
            return f"[{words}]({'../' * folder.count('/') + ('../' if folder else '')}index.md{anchor})"
        if files.get_file_from_path(normpath(f"{folder}/{target}")) is not None:
            return found[0]
        at = place if (ROOT / place).is_file() else target
        if not (ROOT / at).is_file():
            return found[0]  # mkdocs says that it is not there
        return f"{words} (`{at}` in the sources)" if words.strip("`") != at else f"`{at}`"

    return LINK.sub(instead, markdown)
