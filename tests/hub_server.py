"""A stand-in for the Hugging Face Hub: the few addresses that its client asks for, in memory."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


class Hub(BaseHTTPRequestHandler):
    """Models by name, each with its files; one commit alone."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    @property
    def models(self):
        return self.server.models

    def answer(self, value, status=200, headers=()):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        for key, text in headers:
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        path, body = urlparse(self.path).path, self.body()
        self.server.asked.append(("POST", path))
        if path == "/api/repos/create":
            value = json.loads(body)
            name = "/".join(filter(None, (value.get("organization"), value["name"])))
            self.models.setdefault(name, {})
            return self.answer({"url": f"{self.server.address}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        name, _, action = path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
        if action == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in paths]
            return self.answer({"files": files})
        for line in body.splitlines():
            value = json.loads(line)
            if value["key"] == "file":
                self.models[name][value["value"]["path"]] = base64.b64decode(value["value"]["content"])
        return self.answer(
            {
                "success": True,
                "commitOid": self.commit(name),
                "commitUrl": f"{self.server.address}/{name}/commit/{self.commit(name)}",
            }
        )

    def commit(self, name):
        return hashlib.sha1(repr(sorted(self.models[name].items())).encode()).hexdigest()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        self.server.asked.append((self.command, path))
        if path.startswith("/api/models/"):
            words = path.removeprefix("/api/models/").split("/")
            name = "/".join(words[:2])
            if name not in self.models:
                return self.answer({"error": "Repository not found"}, 404, [("X-Error-Code", "RepoNotFound")])
            files = self.models[name]
            if "tree" in words:
                rows = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                ]
                return self.answer(rows)
            siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
            return self.answer(
                {
                    "id": name,
                    "modelId": name,
                    "sha": self.commit(name),
                    "siblings": siblings,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                }
            )
        name, _, rest = path.lstrip("/").partition("/resolve/")
        data = self.models.get(name, {}).get(rest.partition("/")[2])
        if data is None:
            code = "EntryNotFound" if name in self.models else "RepoNotFound"
            return self.answer({"error": code}, 404, [("X-Error-Code", code)])
        headers = [("ETag", f'"{hashlib.sha1(data).hexdigest()}"'), ("X-Repo-Commit", self.commit(name))]
        return self.answer(data, headers=headers)

    do_HEAD = do_GET


@contextmanager
def hub():
    """The address of a running server, its models, and what it was asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.models, server.asked = {}, []
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
