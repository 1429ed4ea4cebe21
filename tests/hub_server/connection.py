"""One TCP connection: reads requests, lets faults strike, sends answers."""

import os
import socket
import struct
import sys
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import routing
from .answers import Answer, HubError, Request


class Cut(Exception):
    """The connection is to be closed at once."""


class Connection(BaseHTTPRequestHandler):
    """Serves HTTP/1.1 with keep-alive for the hub of its server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        hub = self.server.hub
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, query, headers)
        hub.requests.append(request)
        troubles = hub.faults.striking(request)
        try:
            limits = [trouble.upload_limit for trouble in troubles if trouble.upload_limit is not None]
            self.read_body(request, min(limits, default=None))
            answer = self.answer(request, troubles)
            self.send(request, answer, troubles)
        except Cut as cut:
            self.cut(reset=bool(cut.args))
        except ConnectionError:  # the client left
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def read_body(self, request: Request, limit: int | None) -> None:
        length = int(self.headers.get("Content-Length", 0))
        request.body = self.rfile.read(length if limit is None else min(length, limit))
        request.upload = len(request.body)
        if limit is not None and length >= limit:
            raise Cut

    def answer(self, request: Request, troubles) -> Answer:
        for trouble in troubles:
            if (answer := trouble.before(request)) is not None:
                return answer
        answer = self.handled(request)
        for trouble in troubles:
            answer = trouble.change(answer)
            if answer is None:
                raise Cut
        return answer

    def handled(self, request: Request) -> Answer:
        hub = self.server.hub
        try:
            function, groups = routing.find(request.method, request.path)
            with hub.lock:
                return function(hub, request, **groups)
        except HubError as error:
            return error.answer()
        except Exception:  # a mistake of this server, or nonsense from the client: 501 is not retried
            hub.crashes.append(traceback.format_exc())
            return HubError(501, f"The test Hub failed: {traceback.format_exc()}").answer()

    def send(self, request: Request, answer: Answer, troubles) -> None:
        request.status = answer.status
        self.send_response(answer.status)
        headers = {"X-Request-Id": f"test-{len(self.server.hub.requests)}", **answer.headers}
        if request.method == "HEAD" or answer.status != 204:
            headers["Content-Length"] = str(len(answer.body))
        for name, value in headers.items():
            self.send_header(name, value.encode("ascii", "replace").decode().replace("\n", " "))
        self.end_headers()
        body = b"" if request.method == "HEAD" else answer.body
        for trouble in troubles:
            if trouble.download_limit is not None:
                self.wfile.write(body[: trouble.download_limit])
                raise Cut(*["reset"] * trouble.reset)
        self.wfile.write(body)

    def cut(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *arguments):
        pass  # `HubServer.requests` is the log


class Listener(ThreadingHTTPServer):
    """Accepts connections on a free port of the loopback interface, for one hub."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, hub):
        self.hub = hub
        super().__init__(("127.0.0.1", 0), Connection)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # that is a client that left between two requests
            self.hub.crashes.append(traceback.format_exc())
