"""A server on loopback that behaves like the Hugging Face hub, and fails like it on demand."""
import contextlib
import gzip
import hashlib
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Serves files {name: bytes} under any repository and revision, the large ones on another port.

    faults {name: [fault, ...]}: one is used up by each request for the file's content.
    requests: [(name, Range header or None)] for content; paths: all that the hub was asked for.
    sent {name: bytes of content sent}; half_sent is set, and release awaited, by the fault "hold".
    """

    def __init__(self, files, faults=(), declared=None, large=("model.safetensors",)):
        self.files, self.faults, self.large = files, dict(faults), large
        self.retry_after = "0"
        self.declared = declared  # headers of the redirect, instead of the right ones
        self.requests, self.paths, self.sent = [], [], dict.fromkeys(files, 0)
        self.half_sent, self.release = threading.Event(), threading.Event()

    def __enter__(self):
        class Handler(BaseHTTPRequestHandler):
            hub = self

            def do_GET(self):
                with contextlib.suppress(ConnectionError):
                    self.hub.answer(self)

            def log_message(self, *_):
                pass

        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.url, self.content = (f"http://127.0.0.1:{s.server_port}" for s in self.servers)
        return self

    def __exit__(self, *_):
        self.release.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def answer(self, request):
        name = request.path.rsplit("/", 1)[1]
        is_content = request.server is self.servers[1] or "/api/" in request.path
        if not is_content:
            self.paths.append(request.path)
        if name not in self.files:
            request.send_error(404)
        elif is_content:
            self.send_content(request, name)
        elif name in self.large:
            sha256 = hashlib.sha256(self.files[name]).hexdigest()
            size = len(self.files[name])
            declared = {"X-Linked-Size": str(size), "X-Linked-Etag": f'"{sha256}"'}
            self.redirect(request, f"{self.content}/blob/{name}",
                          declared if self.declared is None else self.declared)
        else:
            self.redirect(request, f"/api/resolve-cache/{name}", {})

    def redirect(self, request, location, headers):
        request.send_response(302)
        for key, value in {"Location": location, "Content-Length": "0", **headers}.items():
            request.send_header(key, value)
        request.end_headers()

    def send_content(self, request, name):
        data, range_ = self.files[name], request.headers.get("Range")
        self.requests.append((name, range_))
        fault = self.faults[name].pop(0) if self.faults.get(name) else None
        if fault == "stall":
            self.release.wait()
        if fault == "reset":
            self.reset(request)
        elif isinstance(fault, int):
            request.send_response(fault)
            request.send_header("Retry-After", self.retry_after)
            request.end_headers()
        else:
            start = int(re.fullmatch(r"bytes=(\d+)-", range_)[1]) if range_ else 0
            if fault == "ignore range":
                range_, start = None, 0
            if range_ and start >= len(data):
                request.send_error(416)
                return
            self.send_body(request, name, data, start, range_, fault)

    def send_body(self, request, name, data, start, range_, fault):
        body = data[start:]
        request.send_response(206 if range_ else 200)
        request.send_header("ETag", '"' + hashlib.sha1(data).hexdigest() + '"')
        if request.headers.get("Accept-Encoding") == "identity":
            request.send_header("Content-Length", str(len(body)))
        else:  # compressed on the fly, its length unknown
            request.send_header("Content-Encoding", "gzip")
            body = gzip.compress(body)
        if range_:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        n = len(body) // 2 if fault in ("short", "reset half", "hold") else len(body)
        request.wfile.write(body[:n])
        self.sent[name] += n
        if fault == "hold":
            self.half_sent.set()
            self.release.wait()
        if fault == "reset half":
            self.reset(request)

    def reset(self, request):
        linger = struct.pack("ii", 1, 0)  # close with RST
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.connection.close()
        request.close_connection = True
