"""A server whose every answer a test decides: OpenAI's ``/models`` and completions on loopback."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict]


class FakeServer:
    """What was asked, and how many requests were under way at most.

    Args:
        answer: From the body of a request to the status and the body of its response.
        models: What it serves.
    """

    def __init__(self, answer: Callable[[dict], Answer], models=("policy",)):
        self.answer, self.models = answer, models
        self.asked: list[dict] = []
        self.keys: set[str] = set()
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self.address = ""

    def serve(self, path: str, body: dict | None) -> Answer:
        if path.endswith("/models"):
            return 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
        with self._lock:
            self.asked.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return self.answer(body)
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def serving(server: FakeServer):
    """Serve on a free port of loopback for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.respond(None)

        def do_POST(self):
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def respond(self, body):
            server.keys.add(self.headers["Authorization"])
            status, answer = server.serve(self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256  # all that a client opens at once

        def handle_error(self, request, client_address):
            """Say nothing of clients that have left."""

    with Server(("127.0.0.1", 0), Handler) as http:
        server.address = f"http://127.0.0.1:{http.server_address[1]}/v1"
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield server
        http.shutdown()
        thread.join()


def text_completion(**choice) -> Answer:
    """An answer with one choice."""
    whole = {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop", **choice}
    return 200, {"id": "1", "object": "text_completion", "created": 1, "model": "policy", "choices": [whole]}


def chat_reply(text: str | None) -> Answer:
    """An answer of a chat."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "policy", "choices": [choice]}


def refusal(status: int, message: str) -> Answer:
    return status, {"error": {"message": message, "type": "error", "code": status}}
