"""Who may ask the page's server, what it answers, what it refuses, and that a query nobody waits for ends."""

import csv
import http.client
import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest

from hand_run import hand_run, values
from rankshift.screen.explore.opened.session import opened
from rankshift.screen.explore.server.app import make_app
from rankshift.screen.explore.server.guard import Guard
from rankshift.screen.runs.run import Run
from serving import TOKEN, serving

COOKIE = "rankshift-explore-{port}=" + TOKEN


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return hand_run(tmp_path_factory.mktemp("served") / "run", values())


@pytest.fixture(scope="module")
def port(run, tmp_path_factory) -> Iterator[int]:
    with serving({"one": run}, {}) as port:
        yield port


class Answer:
    def __init__(self, got: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.text = got.status, got.headers, got.read().decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(port: int, path: str, *, method: str = "GET", body: str | None = None, **headers: str | None) -> Answer:
    """An answer to a browser with the cookie; headers by name, _ for -, None leaves out what a browser would send."""
    given: dict[str, str | None] = {"host": f"127.0.0.1:{port}", "cookie": COOKIE.format(port=port)}
    if method == "POST":
        given["origin"] = f"http://127.0.0.1:{port}"
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.putrequest(method, path, skip_host=True)
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    if body is not None:
        connection.putheader("content-length", str(len(body.encode())))
    connection.endheaders(None if body is None else body.encode())
    try:
        return Answer(connection.getresponse())
    finally:
        connection.close()


def test_the_token_becomes_a_cookie_that_scripts_cannot_read(port):
    got = ask(port, f"/?token={TOKEN}", cookie=None)
    assert (got.status, got.headers["location"]) == (303, "/")
    assert got.headers["set-cookie"] == f"{COOKIE.format(port=port)}; HttpOnly; SameSite=Strict; Path=/"
    assert "rankshift explore" in ask(port, "/").text


@pytest.mark.parametrize("path", ["/", "/api/about", "/assets/page.js", "/download/table.csv", "/nothing"])
@pytest.mark.parametrize(
    "cookie", [None, "rankshift-explore-{port}=guess", "other=" + TOKEN, "rankshift-explore-1=" + TOKEN]
)
def test_without_the_secret_there_is_nothing(port, path, cookie):
    got = ask(port, path, cookie=cookie and cookie.format(port=port))
    assert got.status == 403
    assert got.text.startswith("This page needs the address that rankshift explore printed")
    assert ask(port, "/?token=guess", cookie=None).status == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", None])
def test_another_name_for_this_machine_is_refused(port, host):
    """A page of another site can make its own name point here; its requests carry that name."""
    got = ask(port, f"/?token={TOKEN}", host=host and host.format(port=port))
    assert got.status in (400, 421)
    assert "set-cookie" not in got.headers


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}"])
def test_the_names_of_the_loopback_are_taken(port, host):
    assert ask(port, "/api/about", host=host.format(port=port)).status == 200


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://127.0.0.1:{port}"]
)
def test_only_the_page_itself_may_send(port, origin):
    body = json.dumps({"query": "SELECT 1"})
    got = ask(port, "/api/sql", method="POST", body=body, origin=origin and origin.format(port=port))
    assert got.status == 403
    assert ask(port, "/api/sql", method="POST", body=body).json["rows"] == {"1": [1]}


@pytest.mark.parametrize("path", ["/", "/api/about", "/assets/page.js", "/nothing", "/api/gene?gene=nobody"])
def test_every_answer_forbids_foreign_scripts_frames_and_copies(port, path):
    got = ask(port, path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in got["content-security-policy"].split(";"))
    assert policy["script-src"] == "'self'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert (got["x-content-type-options"], got["cache-control"]) == ("nosniff", "no-store")
    assert "access-control-allow-origin" not in got


@pytest.mark.parametrize(
    "path", ["/assets/../page.py", "/assets/%2e%2e/about.py", "/assets//etc/passwd", "/assets/..%2fabout.py"]
)
def test_assets_are_the_files_of_the_page_alone(port, path):
    assert ask(port, path).status == 404
    for name, kind in (
        ("page.js", "text/javascript"),
        ("plotly-cartesian.min.js", "text/javascript"),
        ("report.css", "text/css"),
    ):
        got = ask(port, f"/assets/{name}")
        assert (got.status, got.headers["content-type"].split(";")[0]) == (200, kind)


def test_answers_are_those_of_the_room(port, run):
    assert ask(port, "/api/about").json["runs"][0]["perturbations"] == 4
    assert ask(port, "/api/gene?gene=beta&by=donor").json["groups"]["cells"] == [5, 7]
    assert ask(port, "/api/table?" + urlencode({"filters": '{"cells": "6"}'})).json["rows"]["symbols"] == ["alphaX"]
    body = json.dumps({"cells": [0, 1, 2, 3]})
    found = ask(port, "/api/cells", method="POST", body=body).json
    assert found["cells"] == 4
    want = run.sql("SELECT avg(shift_up) AS m FROM shifts WHERE cell < 4 GROUP BY perturbation ORDER BY abs(m) DESC")
    assert found["rows"]["mean_in"] == pytest.approx(want["m"].to_pylist()[:4], rel=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/api/gene?gene=nobody", None, "run one has no perturbation 'nobody'"),
        ("/api/table?run=two", None, "no run is called 'two': use one of one"),
        ("/api/table?filters=%5B", None, "filters are no JSON"),
        ("/api/cells", "[1]", "the request is no JSON object"),
        ("/api/cells", "{", "the request is no JSON"),
        ("/api/sql", '{"query": "DROP VIEW shifts"}', "DROP would change something"),
        ("/api/sql", '{"query": "SELECT * FROM read_csv(\'/etc/passwd\')"}', "SQL reads the run"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(port, path, body, why):
    got = ask(port, path, method="GET" if body is None else "POST", body=body)
    assert got.status == 400
    assert why in got.json["error"]
    assert "\n" not in got.json["error"]


def test_a_request_has_an_end(port):
    assert ask(port, "/api/cells", method="POST", body=" " * 4_000_001).status == 400


def lines(got: Answer) -> list[dict[str, str]]:
    assert got.status == 200
    assert got.headers["content-disposition"].startswith("attachment")
    return list(csv.DictReader(io.StringIO(got.text)))


@pytest.mark.slow
def test_tables_are_saved_as_csv(port, run):
    rows = lines(ask(port, "/download/table.csv?sort=cells"))
    assert [row["cells"] for row in rows] == ["6", "12", "12", "12"]
    assert len(lines(ask(port, "/download/gene.csv?gene=ALPHA"))) == 12
    form = urlencode({"query": "SELECT * FROM shifts, range(3000) ORDER BY 1"})
    kind = "application/x-www-form-urlencoded"
    rows = lines(ask(port, "/download/answer.csv", method="POST", body=form, content_type=kind))
    assert len(rows) == run.sql("SELECT count(*) AS n FROM shifts")["n"][0].as_py() * 3000
    for query, why in (("SELECT [1] AS a", "CSV cannot hold column 'a'"), ("SELECT 1 AS a, 2 AS a", "comes 2 times")):
        got = ask(port, "/download/answer.csv", method="POST", body=urlencode({"query": query}), content_type=kind)
        assert got.status == 400
        assert why in got.json["error"]


def test_a_query_that_nobody_waits_for_ends(run):
    """The browser leaves right after it has asked for what would take years."""
    sent: list[dict[str, Any]] = []
    told = iter(
        [
            {
                "type": "http.request",
                "body": b'{"query": "SELECT sum(a.range) FROM range(10000000000) a, range(10000000000) b"}',
            },
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(told)

    async def send(message: Any) -> None:
        sent.append(message)

    async def leave() -> None:
        with anyio.fail_after(600):
            await app(scope, receive, send)

    with opened({"one": run}, {}) as session:
        app = Guard(make_app(session), TOKEN, 1)
        headers = {"host": "localhost:1", "cookie": COOKIE.format(port=1), "origin": "http://localhost:1"}
        scope = {
            "type": "http", "method": "POST", "path": "/api/sql", "query_string": b"", "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        anyio.run(leave)
    assert sent[0]["status"] == 400
    assert b"nterrupt" in sent[1]["body"]


def test_a_socket_that_is_no_page_is_closed(run):
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def knock() -> None:
        with opened({"one": run}, {}) as session:
            await Guard(make_app(session), TOKEN, 1)({"type": "websocket", "headers": []}, receive, send)

    anyio.run(knock)
    assert sent == [{"type": "websocket.close", "code": 1008}]
