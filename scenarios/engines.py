"""A container engine as netkit sees one: Docker's API on a unix socket, and processes behind it.

    with FakeEngine(path) as docker, container() as pid:
        docker.has("web", pid)
        netkit connect docker:web

Shapes   what is told of a container is Docker's JSON, cut to what matters; `asked` has the targets
         of the requests so far. `answer`, where it is set, answers in the engine's stead, on the
         bare connection
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer
from types import TracebackType
from typing import Any, Self, cast

from netkit import naming


class FakeEngine:
    """Answers at the socket at *path*, as Docker does; podman's answers differ in nothing read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.containers: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.answer: Callable[[socket.socket], None] | None = None

    def has(self, name: str, pid: int, status: str = "running", id: str | None = None) -> str:
        """There is a container of that name from now on; its id."""
        known = self.containers.get(name)
        id = id or (known["Id"] if known else naming.new_id())
        state = {"Status": status, "Running": status == "running", "Pid": pid}
        self.containers[name] = {"Id": id, "Name": f"/{name}", "State": state, "Image": "x"}
        return id

    def told(self, target: str) -> tuple[int, object]:
        """Status and body of the answer to a GET."""
        self.asked.append(target)
        if target == "/containers/json?all=1":
            return 200, [{"Id": c["Id"], "Names": [c["Name"]]} for c in self.containers.values()]
        name = target.removeprefix("/containers/").removesuffix("/json")
        if name in self.containers:
            return 200, self.containers[name]
        found = [c for c in self.containers.values() if c["Id"].startswith(name)]
        if len(found) == 1:
            return 200, found[0]
        if found:
            return 400, {"message": f"multiple IDs found with provided prefix: {name}"}
        return 404, {"message": f"No such container: {name}"}

    def __enter__(self) -> Self:
        self._server = _Server(self.path, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, engine: FakeEngine) -> None:
        self.engine = engine
        super().__init__(path, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        answer = cast(_Server, self.server).engine.answer
        with contextlib.suppress(OSError):  # who asked has hung up
            if answer is not None:
                self.rfile.readline()
                answer(self.connection)
            else:
                super().handle()

    def do_GET(self) -> None:
        status, body = cast(_Server, self.server).engine.told(self.path)
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None: ...


@contextlib.contextmanager
def container(*command: str) -> Iterator[int]:
    """A process in network and mount namespaces of its own; its pid."""
    words = ["unshare", "--net", "--mount", "sh", "-c", 'echo; exec "$@"', "sh"]
    with subprocess.Popen([*words, *(command or ("sleep", "60"))], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it is inside
        try:
            yield child.pid
        finally:
            child.kill()
