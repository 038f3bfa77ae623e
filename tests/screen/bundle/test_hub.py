"""Models by name, from a hub on the loopback that speaks the calls of the public one: commits, trees, files, refusals."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import load_file

from rankshift.screen.bundle.bundle import Bundle
from support import GOLDEN

V1 = GOLDEN / "v1"
COMMIT, OLDER = "c" * 40, "a" * 40
REPOSITORY = "lab/little"


@dataclass
class Hub:
    """A repository in memory: {commit: {name: bytes}}. large: names whose checksum is their sha256, as of stored files."""

    commits: dict[str, dict[str, bytes]]
    large: tuple[str, ...] = ("model.safetensors",)
    names: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "v0": OLDER})
    asked: list[str] = field(default_factory=list)
    spoilt: bool = False  # large files arrive with other bytes than their checksum says
    closed: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)  # {repository: status and headers}
    address: str = ""

    def commit(self, name: str) -> str | None:
        return self.names.get(name, name if name in self.commits else None)

    def etag(self, name: str, data: bytes) -> str:
        if name.rsplit("/", 1)[-1] in self.large:
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # as git knows a file


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(path)
            parts = path.strip("/").split("/")
            api, parts = parts[:2] == ["api", "models"], parts[2:] if parts[:2] == ["api", "models"] else parts
            if "/".join(parts[:2]) in hub.closed:
                return self.send(hub.closed["/".join(parts[:2])][0], b"{}", hub.closed["/".join(parts[:2])][1], body)
            if "/".join(parts[:2]) != REPOSITORY:
                return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            verb = parts[2] if len(parts) > 2 else "revision"
            commit = hub.commit(parts[3] if len(parts) > 3 else "main")
            if commit is None:
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
            files = hub.commits[commit]
            if api and verb == "tree":
                return self.send(200, json.dumps([self.entry(n, d) for n, d in files.items()]).encode(), {}, body)
            if api:
                told = {"id": REPOSITORY, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
                return self.send(200, json.dumps(told).encode(), {}, body)
            name = "/".join(parts[4:])
            if name not in files:
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            data, headers = files[name], {"X-Repo-Commit": commit, "ETag": f'"{hub.etag(name, files[name])}"'}
            if hub.spoilt and name.endswith(hub.large):
                data = data[:-1] + bytes([data[-1] ^ 1])
            return self.send(200, data, headers, body)

        def entry(self, name: str, data: bytes) -> dict:
            told = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            if name.endswith(hub.large):
                told["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
            return told

        def send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Answers


@pytest.fixture
def server() -> Iterator[Hub]:
    model = {path.name: path.read_bytes() for path in (V1 / "model").iterdir()}
    files = {f"small/{name}": data for name, data in model.items()}
    files |= {"small/vocabulary.json": (V1 / "vocabulary.json").read_bytes(), "README.md": b"a model", **model}
    files["other/model.safetensors"] = b"of another folder"
    older = {"README.md": b"nothing yet"}
    hub = Hub(commits={COMMIT: files, OLDER: older})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    Thread(target=listening.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{listening.server_port}"
    yield hub
    listening.shutdown()
    listening.server_close()


def bundle(hub: Hub | None, folder: Path, *arguments: str, offline: bool = False) -> tuple[int, str]:
    """Exit code and last line of `rankshift bundle` in a process whose hub and cache are these."""
    done = python(hub, folder, ["-m", "rankshift", "bundle", *arguments], offline=offline)
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def python(
    hub: Hub | None, folder: Path, arguments: list[str], *, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    """A Python process in the folder whose hub and cache are these."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
    env |= {"HF_HOME": str(folder / "hf"), "HF_ENDPOINT": hub.address if hub else "http://127.0.0.1:9"}
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | (
        {"HF_HUB_OFFLINE": "1"} if offline else {}
    )
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


MODEL = f"hf://{REPOSITORY}/small"
PARTS = ["--vocabulary", f"{MODEL}/vocabulary.json", "--medians", str(V1 / "medians.json")]


@pytest.mark.slow
def test_a_bundle_by_name_is_the_bundle_of_the_folder_and_says_where_it_is_from(server, tmp_path, bundles):
    assert bundle(server, tmp_path, MODEL, *PARTS, "--out", "b") == (0, bundle_line("b"))
    made, local = Bundle.open(tmp_path / "b"), Bundle.open(bundles["v1"])
    made.verify()
    assert made.weights_sha256 == local.weights_sha256
    weights = hashlib.sha256((V1 / "model" / "model.safetensors").read_bytes()).hexdigest()
    record = json.loads((tmp_path / "b" / "bundle.json").read_text())["hub"]
    assert record["model"]["repository"] == REPOSITORY
    assert record["model"]["commit"] == record["vocabulary"]["commit"] == COMMIT
    assert record["model"]["sha256"]["small/model.safetensors"] == weights
    fetched = {path for path in server.asked if "/resolve/" in path}
    assert not any("other/" in path or "README" in path for path in fetched), "only what a checkpoint has is fetched"

    # From now on the cache answers, without anybody to ask, and only what it has.
    server.asked.clear()
    assert bundle(None, tmp_path, MODEL, *PARTS, "--out", "offline", offline=True) == (0, bundle_line("offline"))
    assert bundle(None, tmp_path, MODEL, *PARTS, "--out", "alone") == (0, bundle_line("alone"))
    assert server.asked == []
    assert (tmp_path / "b" / "bundle.json").read_bytes() == (tmp_path / "offline" / "bundle.json").read_bytes()
    code, line = bundle(None, tmp_path, "hf://lab/unseen", *PARTS, "--out", "x", offline=True)
    assert (code, line) == (
        2,
        "rankshift: hf://lab/unseen: HF_HUB_OFFLINE is set and the cache lacks it: unset it, or copy the folder from "
        "elsewhere and give its path",
    )
    assert not (tmp_path / "x").exists()


def bundle_line(out: str) -> str:
    weights = hashlib.sha256((V1 / "model" / "model.safetensors").read_bytes()).hexdigest()[:12]
    return f"{out}: v1, 152 tokens, 3 layers of 32, lists up to 64, weights {weights}"


@pytest.mark.slow
def test_the_root_of_a_repository_at_a_commit_is_a_model_too(server, tmp_path):
    local = ["--vocabulary", str(V1 / "vocabulary.json"), "--out", "b"]
    assert bundle(server, tmp_path, f"hf://{REPOSITORY}@{COMMIT}", *local) == (0, bundle_line("b"))
    assert "other/model.safetensors" not in str(server.asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("hf://lab/nothing", "has no model lab/nothing, or not for you: check the name"),
        (f"hf://{REPOSITORY}@v9/small", f"{REPOSITORY} has no revision v9: name a branch, a tag or a commit"),
        (f"hf://{REPOSITORY}@v0", "has no config.json there: name the folder of a model in it, hf://OWNER/NAME"),
        (f"hf://{REPOSITORY}/absent", "has no config.json there: name the folder of a model in it"),
        ("hf://lab", "names no model of a hub: give hf://OWNER/NAME"),
    ],
)
def test_what_a_hub_does_not_give_is_a_line(server, tmp_path, place, words):
    code, line = bundle(server, tmp_path, place, *PARTS, "--out", "b")
    assert (code, words in line) == (2, True), line
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_without_a_network_and_without_a_cache_it_says_so(tmp_path):
    code, line = bundle(None, tmp_path, MODEL, *PARTS, "--out", "b")
    assert code == 2
    assert "http://127.0.0.1:9 cannot be asked" in line
    assert "connect, or copy the folder from elsewhere and give its path" in line


@pytest.mark.slow
def test_weights_that_are_not_what_the_hub_says_are_refused(server, tmp_path):
    server.spoilt = True
    code, line = bundle(server, tmp_path, MODEL, *PARTS, "--out", "b")
    assert code == 2
    assert "the hub says" in line
    assert "remove it and fetch again" in line
    assert not (tmp_path / "b").exists()


GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}
EACH = """
import json, sys
from pathlib import Path
from rankshift.screen.bundle.bundle import make_bundle
from rankshift.screen.errors import InputError
for model, vocabulary, out in json.loads(sys.argv[1]):
    try:
        print(make_bundle(model, vocabulary, Path(out)).path)
    except InputError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_model_that_is_not_open_is_a_line(server, tmp_path):
    """Known but not agreed to (403), not known at all (401), and refusals without a reason; one process tries them all."""
    consent = "asks for consent: give it on its page, then `hf auth login`"
    denied = "ask its owner, `hf auth login`, or copy the folder and give its path"
    told = {
        "lab/gated": (403, GATED, f"hf://lab/gated/small {consent}"),
        "lab/stranger": (401, GATED, f"hf://lab/stranger/small {consent}"),
        "lab/denied": (403, {}, f"hf://lab/denied/small is not given to you (403): {denied}"),
        "lab/unknown": (401, {}, f"hf://lab/unknown/small is not given to you (401): {denied}"),
    }
    server.closed = {name: (status, headers) for name, (status, headers, _) in told.items()}
    wanted = [[f"hf://{name}/small", str(V1 / "vocabulary.json"), "b"] for name in told]
    done = python(server, tmp_path, ["-c", EACH, json.dumps(wanted)])
    assert done.stdout.splitlines() == [words for _, _, words in told.values()], done.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_pickled_weights_are_read_as_tensors_and_nothing_else(server, tmp_path, bundles):
    """Only pytorch_model.bin, as of older models: the same encoder; one that names code is refused and not run."""
    server.large, mark = ("pytorch_model.bin",), tmp_path / "mark"
    files = {name: data for name, data in server.commits[COMMIT].items() if not name.endswith(".safetensors")}
    plain, evil = io.BytesIO(), io.BytesIO()
    torch.save(load_file(V1 / "model" / "model.safetensors"), plain)
    torch.save({"weight": Marks(str(mark))}, evil)
    server.commits = {
        COMMIT: {**files, "small/pytorch_model.bin": plain.getvalue()},
        OLDER: {**files, "small/pytorch_model.bin": evil.getvalue()},
        "e" * 40: files,
    }
    places = (MODEL, f"hf://{REPOSITORY}@{OLDER}/small", f"hf://{REPOSITORY}@{'e' * 40}/small")
    outs = ("good", "evil", "none")
    wanted = [[place, str(V1 / "vocabulary.json"), out] for place, out in zip(places, outs, strict=True)]
    done = python(server, tmp_path, ["-c", EACH, json.dumps(wanted)])
    good, code, nothing = done.stdout.splitlines()
    assert good == "good", done.stderr
    made, known = Bundle.open(tmp_path / "good").encoder_weights(), Bundle.open(bundles["v1"]).encoder_weights()
    assert made.keys() == known.keys()
    assert all(torch.equal(made[name], known[name]) for name in known)
    record = json.loads((tmp_path / "good" / "bundle.json").read_text())["hub"]["model"]["sha256"]
    assert record["small/pytorch_model.bin"] == hashlib.sha256(plain.getvalue()).hexdigest()
    assert "pytorch_model.bin holds more than tensors (names getattr, which is never run here): save the state" in code
    assert "has neither model.safetensors nor pytorch_model.bin" in nothing
    assert not mark.exists()
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "none").exists()


class Marks:
    """An object whose unpickling makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)
