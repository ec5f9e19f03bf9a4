"""Stands in for the `vllm` program: takes its words, is a while getting ready, answers chats that hold pictures.

Run as `python small_vllm.py WAY serve FOLDER --host H --port P ...`. It starts a child of its own, as vLLM does,
and writes both process ids and its words to FOLDER/started.json, and each request to FOLDER/asked.jsonl.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

way, verb, folder, *rest = sys.argv[1:]
assert verb == "serve"
options = dict(zip(rest[::2], rest[1::2], strict=False))
if way == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
facts = {"pids": [os.getpid(), child.pid], "words": [verb, folder, *rest]}
Path(folder, "started.json").write_text(json.dumps(facts))
print("loading weights 1/2", flush=True)
if way == "broken":
    sys.exit("torch.OutOfMemoryError: 25 GiB wanted")
time.sleep(600 if way == "never" else 0.6)
print("loading weights 2/2", flush=True)
answered = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, {"object": "list", "data": [{"id": folder, "object": "model"}]})

    def do_POST(self):
        global answered
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with Path(folder, "asked.jsonl").open("a") as log:
            log.write(json.dumps(body) + "\n")
        if way == "dies" and answered:
            os._exit(3)
        *pictures, text = body["messages"][0]["content"]
        if way == "mute" or (way == "mute on the third" and answered == 2):
            said = ""
        else:
            sizes = [png_size(picture["image_url"]["url"]) for picture in pictures]
            said = f" {text['text']}, in rich detail, seen in {sizes}, seed {body['seed']}\n"
        answered += 1
        message = {"role": "assistant", "content": said}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        self.answer(
            200, {"id": "1", "object": "chat.completion", "created": 0, "model": folder, "choices": choices}
        )

    def answer(self, status, content):
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


def png_size(url):
    raw = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    return [int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")]


ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
