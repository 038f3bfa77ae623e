"""The folder of a demo, which is taken for its settings: other settings need another folder."""

import json
from pathlib import Path

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.json_file import read_json


def claim(out: Path, settings: dict) -> None:
    """Take the folder for a demo with these settings, or go on with the same one."""
    note, settings = out / "demo.json", json.loads(json.dumps(settings))
    if note.exists():
        if read_json(note, f"give another --out, or remove {out}") != settings:
            raise InputError(f"{out} holds a demo with other settings: give another --out, or remove it")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and holds no demo: give another --out")
    with replacing(note) as temporary:
        temporary.write_text(json.dumps(settings, indent=2))
