"""A server on loopback that speaks enough of the hub's protocol for a tiny tree."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


class HubServer:
    """Serves `files` by "owner/name" and path.

    Attributes:
        gated: repositories that let nobody in.
        cut_after: bytes by path after which the connection is cut, once.
        log: (method, path, range) of each request for a file's content.
    """

    def __init__(self, files: dict[str, dict[str, bytes]]) -> None:
        self.files = files
        self.gated: set[str] = set()
        self.cut_after: dict[str, int] = {}
        self.refuse_files = False
        self.commit = COMMIT
        self.log: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.serve(body=True)

            def do_HEAD(self):
                self.serve(body=False)

            def serve(self, body):
                path = self.path.partition("?")[0]
                if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/auth-check|/revision/\w+)?", path):
                    return self.about(found[1], found[2] or "")
                repository, commit, name = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path).groups()
                content = outer.files[repository].get(name) if commit == outer.commit else None
                if content is None or outer.refuse_files:
                    return self.answer(503 if outer.refuse_files else 404, b"{}")
                wanted = self.headers.get("range")
                if body:
                    outer.log.append((self.command, name, wanted))
                start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
                self.send_response(206 if wanted else 200)
                self.send_header("etag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("x-repo-commit", outer.commit)
                self.send_header("accept-ranges", "bytes")
                self.send_header("content-length", str(len(content) - start))
                if wanted:
                    self.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                if body:
                    cut = outer.cut_after.pop(name, None)
                    self.wfile.write(content[start:cut])
                    self.close_connection = cut is not None
                return None

            def about(self, repository, what):
                if repository in outer.gated and what == "/auth-check":
                    return self.answer(403, b'{"error": "gated"}', {"x-error-code": "GatedRepo"})
                if repository not in outer.files:
                    return self.answer(404, b"{}", {"x-error-code": "RepoNotFound"})
                if what.startswith("/revision/") and what != f"/revision/{outer.commit}":
                    return self.answer(404, b"{}", {"x-error-code": "RevisionNotFound"})
                siblings = [
                    {
                        "rfilename": name,
                        "size": len(content),
                        "blobId": "b",
                        "lfs": {
                            "sha256": hashlib.sha256(content).hexdigest(),
                            "size": len(content),
                            "pointerSize": 1,
                        },
                    }
                    for name, content in outer.files[repository].items()
                ]
                facts = {"_id": "1", "id": repository, "sha": outer.commit, "siblings": siblings, "tags": []}
                return self.answer(200, json.dumps(facts).encode())

            def answer(self, status, raw, headers=None):
                self.send_response(status)
                for name, value in {"content-type": "application/json", **(headers or {})}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
