"""Runs docs/tutorial.ipynb from its first cell to its last in a folder of its own; with --keep its outputs are written back.

Any cell that fails ends it. Outputs are kept without bars and warnings, and name /home/me in place of that folder.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


def main() -> None:
    """Execute, and write back where asked."""
    book = nbformat.read(PAGE, as_version=4)
    with tempfile.TemporaryDirectory(prefix="rankshift-notebook-") as folder:
        NotebookClient(book, timeout=300, resources={"metadata": {"path": folder}}).execute()
    if "--keep" in sys.argv[1:]:
        for cell in book.cells:
            cell.metadata = {}
            if cell.cell_type == "code":
                cell.outputs = [out for out in cell.outputs if not _progress(out)]
        PAGE.write_text(nbformat.writes(book).replace(folder, "/home/me") + "\n")
    print(f"{PAGE.name}: {sum(cell.cell_type == 'code' for cell in book.cells)} cells ran")


def _progress(out: dict) -> bool:
    return out.get("name") == "stderr" or out.output_type == "display_data"  # the bars, and what they warn of


if __name__ == "__main__":
    main()
