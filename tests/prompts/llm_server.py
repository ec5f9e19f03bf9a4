"""A small OpenAI-compatible server on loopback that misbehaves as it is told."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count


class LlmServer:
    """Answers chats; `faults` are taken one per request, then it behaves well.

    Attributes:
        faults: of the next requests: a status code, or the name of a way to misbehave.
        requests: (start time, headers, body) of each chat so far.
    """

    def __init__(self) -> None:
        self.faults: list[int | str] = []
        self.always: int | str | None = None
        self.requests: list[tuple[float, dict, dict]] = []
        self.numbers = count()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.answer(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append((time.monotonic(), dict(self.headers), body))
                fault = outer.faults.pop(0) if outer.faults else outer.always
                self.misbehave(fault, outer.content(body["messages"][0]["content"]))

            def misbehave(self, fault, content):
                if isinstance(fault, int):
                    headers = {"retry-after": "0.2"} if fault == 429 else {}
                    key = self.headers["authorization"]
                    return self.answer(fault, {"error": {"message": f"no, says the server to {key}"}}, headers)
                if fault == "slow":
                    time.sleep(1.5)
                if fault == "cut":
                    raw = json.dumps(completion(content)).encode()
                    self.send_response(200)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw[: len(raw) // 2])
                    self.close_connection = True
                    return self.wfile.flush()
                if fault == "not json":
                    return self.answer(200, "<html>gateway</html>")
                if fault == "no choices":
                    return self.answer(200, {**completion(content), "choices": []})
                if fault == "null":
                    return self.answer(200, completion(None))
                told = {"prose": "Of course! Here it comes.", "half": content[: len(content) // 2]}
                told["other fields"] = '{"prompt": "a room", "ideas": []}'
                told["short"] = (
                    '["room"]' if content[0] == "[" else '{"top_view_prompt": "a", "bottom_view_prompt": "b"}'
                )
                told["fenced"] = f"Sure:\n```json\n{content}\n```\nAnything else?"
                told["numbers"] = "[1, 2, 3]"
                return self.answer(200, completion(told.get(fault, content)))

            def answer(self, status, content, headers=None):
                raw = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **(headers or {})}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def content(self, question: str) -> str:
        """What a good model would say."""
        if found := re.search(r"Give (\d+) short ideas", question):
            return json.dumps([f"idea number {next(self.numbers)} for a room" for _ in range(int(found[1]))])
        idea = re.search(r"this scene: (.*)\.\n", question)[1]
        top, bottom = (f"A realistic video, {view}, of {idea}. " + "word " * 30 for view in ("far", "near"))
        return json.dumps({"top_view_prompt": top, "bottom_view_prompt": bottom})

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def completion(content: str | None) -> dict:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }
