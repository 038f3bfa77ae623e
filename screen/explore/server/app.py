"""The page's application: its files, its answers as JSON, its downloads. Every answer is one of a function of this room."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pyarrow as pa

from rankshift.screen.errors import InputError
from rankshift.screen.explore import about, answer, cells_on_map, comparison, gene, grid, neighbours
from rankshift.screen.explore.comparison import Side
from rankshift.screen.explore.opened.session import Session
from rankshift.screen.explore.opened.shown_run import ShownRun
from rankshift.screen.explore.server.downloads import check_flat, csv_lines
from rankshift.screen.report import page as report

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

ASSETS = Path(__file__).parents[1] / "assets"
STOPPING = 0.05  # seconds between two attempts to end a query that nobody waits for
OF_REPORT = {
    report.PLOTLY: report.PLOTLY,
    "report.css": "page.css",
    "gene_links.js": "gene_links.js",
}  # what the report's page has, too: {name: its file}
LONGEST = 4_000_000  # bytes of a request: the cells of a lasso are a few thousand numbers

Asked = Callable[[Session, "Request"], Any]


def make_app(session: Session) -> "Starlette":
    """The application over a session; `guard.Guard` stands in front of it."""
    # start-up time and an extra: only `rankshift explore` serves
    from starlette.applications import Starlette
    from starlette.responses import FileResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    def home(request: "Request") -> "Response":
        return FileResponse(ASSETS / "page.html", media_type="text/html")

    def of_report(request: "Request") -> "Response":
        return FileResponse(report.ASSETS / OF_REPORT[Path(request.url.path).name])

    return Starlette(
        routes=[
            Route("/", home),
            *(Route(f"/assets/{name}", of_report) for name in OF_REPORT),
            *(Route(f"/api/{name}", _answering(session, asked)) for name, asked in GETS.items()),
            Route("/api/cells", _posted(session, _chosen), methods=["POST"]),
            Route("/api/sql", _sql(session), methods=["POST"]),
            *(Route(f"/download/{name}.csv", _saving(session, asked)) for name, asked in TABLES.items()),
            Route("/download/answer.csv", _saving_answer(session), methods=["POST"]),
            Mount("/assets", StaticFiles(directory=ASSETS)),
        ],
        exception_handlers={InputError: _refused},
    )


def _table(session: Session, request: "Request") -> Any:
    run, ask = _run(session, request), request.query_params
    number, size = _number(ask.get("page"), 1), _number(ask.get("size"), grid.PAGE)
    return grid.page(session, run, **_sorting(request), number=number, size=size)


def _sorting(request: "Request") -> dict[str, Any]:
    ask = request.query_params
    return {
        "filters": grid.filters_of(ask.get("filters")),
        "sort": ask.get("sort"),
        "falling": ask.get("falling") == "1",
    }


def _gene(session: Session, request: "Request") -> Any:
    run, ask = _run(session, request), request.query_params
    return gene.gene(session, run, _perturbation(session, request), ask.get("quantity"), ask.get("by"))


def _colours(session: Session, request: "Request") -> Any:
    run = _run(session, request)
    number = _perturbation(session, request) if request.query_params.get("gene") else None
    return cells_on_map.coloured(session, run, number, request.query_params.get("quantity"))


def _sides(session: Session, request: "Request") -> tuple[Side, Side, int]:
    ask = request.query_params
    x, y = (Side(run=session.run(ask.get(axis)), quantity=ask.get(f"{axis}_quantity")) for axis in ("x", "y"))
    return x, y, _number(ask.get("fewest"), comparison.FEWEST)


def _compare(session: Session, request: "Request") -> Any:
    x, y, fewest = _sides(session, request)
    return comparison.comparison(session, x, y, fewest=fewest)


def _chosen(session: Session, asked: dict[str, Any]) -> Any:
    run = session.run(asked.get("run"))
    return cells_on_map.ranked_again(session, run, asked)


GETS: dict[str, Asked] = {
    "about": lambda session, request: about.about(session, version("rankshift")),
    "find": lambda session, request: gene.find(session, _run(session, request), request.query_params.get("words", "")),
    "table": _table,
    "gene": _gene,
    "effects": lambda session, request: gene.effects(session, _run(session, request), _perturbation(session, request)),
    "neighbours": lambda session, request: neighbours.neighbours(
        session, _run(session, request), _perturbation(session, request), request.query_params.get("quantity")
    ),
    "map": lambda session, request: cells_on_map.drawn(session, _run(session, request)),
    "colours": _colours,
    "compare": _compare,
}
TABLES: dict[str, Callable[[Session, "Request"], pa.Table]] = {
    "table": lambda session, request: grid.rows_of(session, _run(session, request), **_sorting(request)),
    "gene": lambda session, request: gene.rows_of(session, _run(session, request), _perturbation(session, request)),
    "compare": lambda session, request: comparison.compared(
        session, *_sides(session, request)[:2], fewest=_sides(session, request)[2], limit=None
    ),
}


def _answering(session: Session, asked: Asked) -> Callable[["Request"], "Response"]:
    """An endpoint that runs in a thread: DuckDB works while others are answered."""

    def endpoint(request: "Request") -> "Response":
        return _json(asked(session, request))

    return endpoint


def _posted(session: Session, asked: Callable[[Session, dict[str, Any]], Any]) -> Callable:
    # an extra: only `rankshift explore` serves
    from starlette.concurrency import run_in_threadpool

    async def endpoint(request: "Request") -> "Response":
        found = await _body(request)
        return _json(await run_in_threadpool(asked, session, found))

    return endpoint


def _sql(session: Session) -> Callable:
    """A query of the user, ended as soon as nobody waits for it."""
    # an extra: only `rankshift explore` serves
    import anyio
    from starlette.concurrency import run_in_threadpool

    async def endpoint(request: "Request") -> "Response":
        query = str((await _body(request)).get("query", ""))
        stops: list[Callable[[], None]] = []

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            while True:  # until the thread ends: what has not begun to compute cannot be stopped yet
                for stop in stops:
                    stop()
                await anyio.sleep(STOPPING)

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                found: Any = await run_in_threadpool(answer.answer, session, query, stops.append)
            except InputError as error:  # in here it would come out as a group of one
                found = error
            group.cancel_scope.cancel()
        return await _refused(request, found) if isinstance(found, InputError) else _json(found)

    return endpoint


def _saving(session: Session, asked: Callable[[Session, "Request"], pa.Table]) -> Callable[["Request"], "Response"]:
    def endpoint(request: "Request") -> "Response":
        table = asked(session, request)
        return _streamed(csv_lines(table.schema, table.to_batches(max_chunksize=answer.BATCH)), request)

    return endpoint


def _saving_answer(session: Session) -> Callable:
    # an extra: only `rankshift explore` serves
    from starlette.concurrency import run_in_threadpool

    def begin(query: str) -> Iterator[bytes]:
        stack = ExitStack()
        reader = stack.enter_context(answer.reading(session, query))
        check_flat(reader.schema)

        def lines() -> Iterator[bytes]:
            with stack:
                yield from csv_lines(reader.schema, reader)

        return lines()

    async def endpoint(request: "Request") -> "Response":
        form = parse_qs((await _text(request)).decode(errors="replace"), keep_blank_values=True)
        return _streamed(await run_in_threadpool(begin, form.get("query", [""])[0]), request)

    return endpoint


def _streamed(lines: Iterator[bytes], request: "Request") -> "Response":
    # an extra: only `rankshift explore` serves
    from starlette.responses import StreamingResponse

    name = Path(request.url.path).name
    return StreamingResponse(
        lines, media_type="text/csv; charset=utf-8", headers={"content-disposition": f'attachment; filename="{name}"'}
    )


def _json(found: Any) -> "Response":
    # an extra: only `rankshift explore` serves
    from starlette.responses import Response

    status = 404 if found is None else 200
    body = json.dumps(found, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Response(body.encode(), status, media_type="application/json")


async def _refused(request: "Request", error: Exception) -> "Response":
    # an extra: only `rankshift explore` serves
    from starlette.responses import JSONResponse

    return JSONResponse({"error": str(error)}, 400)


async def _text(request: "Request") -> bytes:
    """All that a request carries; raises InputError beyond LONGEST."""
    text = bytearray()
    async for part in request.stream():
        text += part
        if len(text) > LONGEST:
            raise InputError(f"the request has more than {LONGEST:,} bytes")
    return bytes(text)


async def _body(request: "Request") -> dict[str, Any]:
    """The JSON object that a request carries; raises InputError where it carries something else."""
    try:
        found = json.loads(await _text(request))
    except (ValueError, RecursionError) as error:
        raise InputError("the request is no JSON") from error
    if not isinstance(found, dict):
        raise InputError("the request is no JSON object")
    return found


def _run(session: Session, request: "Request") -> ShownRun:
    return session.run(request.query_params.get("run"))


def _perturbation(session: Session, request: "Request") -> int:
    return gene.number_of(session, _run(session, request), request.query_params.get("gene", ""))


def _number(text: str | None, otherwise: int) -> int:
    value = float(text) if text and text.replace(".", "", 1).isdecimal() else math.nan
    return int(value) if math.isfinite(value) else otherwise
