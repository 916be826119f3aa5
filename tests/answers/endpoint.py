"""A real HTTP server on the loopback interface that speaks as a judge, for tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answerer = Callable[[dict[str, Any]], tuple[int, Any]]


class Endpoint:
    """A server that reads the data between the fences and answers by a function of it."""

    def __init__(self, answer: Answerer) -> None:
        self.requests: list[dict[str, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append({"path": self.path, **body})
                status, content = answer(body)
                reply = {"choices": [{"message": {"role": "assistant", "content": content}}]}
                payload = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def data_of(body: dict[str, Any]) -> dict[str, str]:
    """What stands between the fences."""
    first, line, last = body["messages"][1]["content"].split("\n")
    assert first == last and first.startswith("=====") and first not in line
    loaded: dict[str, str] = json.loads(line)
    return loaded


def sensible(body: dict[str, Any]) -> tuple[int, str]:
    """Equivalent where both answers name the same city, whatever else they say."""
    data = data_of(body)
    cities = [{c for c in ("paris", "rome", "seine") if c in data[k].lower()} for k in ("reference", "candidate")]
    same = bool(cities[0]) and cities[0] == cities[1]
    return 200, json.dumps({"verdict": "equivalent" if same else "different"})
