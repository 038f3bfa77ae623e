"""`rankshift explore`: a page over runs, served to a browser of this machine until Ctrl-C. It listens on the loopback alone."""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rankshift.screen.errors import InputError
from rankshift.screen.explore.opened.names import named_places
from rankshift.screen.explore.server.guard import Guard, new_token
from rankshift.screen.extras import need
from rankshift.screen.query_memory import limited_process
from rankshift.screen.runs.run import Run

HOST = "127.0.0.1"


def explore(
    runs: Sequence[str],
    *,
    tables: Sequence[str] = (),
    maps: Sequence[str] = (),
    port: int = 0,
    say: Callable[[str], None] = print,
    began: Callable[[str], None] = print,
) -> None:
    """Serve a page over `runs` (NAME=RUN or RUN) until it is stopped; `began` gets the URL, with its secret.

    tables: files of the user as NAME=FILE, joined by gene; maps: coordinates of cells, NAME=FILE, or FILE for the first run.
    port: 0 for a free one. Raises InputError for what cannot be shown, and where the port is taken.
    """
    serving = _server()
    # start-up time: the page's queries load pandas and the statistics, which a wrong port need not wait for
    from rankshift.screen.explore.opened.session import opened
    from rankshift.screen.explore.server.app import make_app

    places = {name: Run.open(place) for name, place in named_places(runs).items()}
    files = {name: Path(file) for name, file in named_places(tables).items()}
    if twice := places.keys() & files.keys():
        raise InputError(f"{min(twice)!r} names a run and a table: give the table another name, --table NAME=FILE")
    drawn = _maps(maps, list(places))
    with _listening(port) as listener:
        bound = listener.getsockname()[1]
        for name, run in places.items():
            say(f"{name}: {run.path}")
        with opened(places, files, drawn) as session:
            for shown in session.runs.values():
                for note in shown.notes:
                    say(f"{shown.name}: {note}")
            for table in session.tables.values():
                say(table.said)
            token = new_token()
            url = f"http://{HOST}:{bound}/?token={token}"
            say("open this in a browser of this machine; Ctrl-C ends it")
            began(url)
            with limited_process():  # of all queries together; what one is refused, the page says
                serving(Guard(make_app(session), token, bound), listener)


def _server() -> Callable[[Guard, socket.socket], None]:
    """What serves an application on a socket until Ctrl-C; raises InputError where the extra is not installed."""
    need("explore", "explore")
    # an extra: only this verb serves
    import uvicorn

    def serve(app: Guard, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=1
        )
        with suppress(KeyboardInterrupt):  # uvicorn ends in order, then raises the signal again
            uvicorn.Server(config).run(sockets=[listener])

    return serve


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """A socket of the loopback that listens at `port`."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port} is no port: use 1024 to 65535, or leave it out for a free one")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} of {HOST} cannot be had ({error.strerror}): give another --port, or none for a free one"
            ) from error
        listener.listen(128)
        yield listener


def _maps(given: Sequence[str], runs: list[str]) -> dict[str, Path]:
    """Files of coordinates by the name of the run; a FILE alone is of the first."""
    out = {}
    for text in given:
        name, sign, file = text.partition("=")
        if not sign:
            name, file = runs[0], text
        if name not in runs:
            raise InputError(f"--map {text}: no run is called {name!r}: use one of {', '.join(runs)}")
        out[name] = Path(file)
    return out
