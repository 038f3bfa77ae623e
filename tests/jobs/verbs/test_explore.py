"""The verb explore: it prints one address that works, ends in order, and refuses in a line."""

import http.client
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from hand_run import hand_run, values
from rankshift.jobs.verbs.explore import explore
from rankshift.screen.errors import InputError


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_address_answers_until_the_command_is_stopped(tmp_path, ending):
    hand_run(tmp_path / "my-run", values())
    command = [sys.executable, "-m", "rankshift", "explore", str(tmp_path / "my-run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        assert url.hostname == "127.0.0.1"
        assert url.port is not None
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=600)
        connection.request("GET", f"/?{url.query}")
        first = connection.getresponse()
        first.read()
        assert first.status == 303
        connection.request("GET", "/api/about", headers={"cookie": first.headers["set-cookie"].split(";")[0]})
        assert '"name":"my_run"' in connection.getresponse().read().decode()
        connection.close()
        process.send_signal(ending)
        _, said = process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in said


def test_what_cannot_be_shown_is_refused(tmp_path):
    run = str(hand_run(tmp_path / "run", values()).path)
    table = tmp_path / "t.csv"
    table.write_text("gene\nALPHA\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for runs, more, why in (
            ([run], {"port": port}, f"port {port} of 127.0.0.1 cannot be had"),
            ([run], {"port": 70000}, "--port 70000 is no port"),
            ([f"a={run}", f"a={run}"], {}, "'a' names two runs"),
            ([f"a={run}"], {"tables": [f"a={table}"]}, "'a' names a run and a table"),
            ([run], {"maps": ["other=x.csv"]}, "no run is called 'other': use one of run"),
            ([run], {"maps": ["x.csv"]}, "--map x.csv is no file"),
            ([run], {"tables": [f"shifts={table}"]}, "is the name of something else in SQL"),
            ([str(tmp_path / "none")], {}, "is not a run folder"),
        ):
            with pytest.raises(InputError, match=why):
                explore(runs, **more, say=lambda line: None)
