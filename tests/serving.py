"""The page's server in a thread of this process, at a free port of the loopback."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from rankshift.screen.explore.opened.session import opened
from rankshift.screen.explore.server.app import make_app
from rankshift.screen.explore.server.guard import Guard
from rankshift.screen.runs.run import Run
from support import until

TOKEN = "token-of-a-test"


@contextmanager
def serving(runs: Mapping[str, Run], tables: Mapping[str, Path]) -> Iterator[int]:
    """The port at which these runs are shown."""
    with opened(runs, tables) as session, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(Guard(make_app(session), TOKEN, port), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            yield port
        finally:
            server.should_exit = True
            thread.join()
