"""A server on loopback that behaves like the Hugging Face hub, and fails like it on demand."""
import contextlib
import gzip
import hashlib
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Serves files {name: bytes} under any repository and revision, the weights on another port.

    faults {name: [fault, ...]}: one is used up by each request for the file's content. A fault is
    an HTTP status, or some of these words: stall, reset (nothing is sent); whole (no matter what
    Range asks for), shifted (from elsewhere than it asks for), unranged (without Content-Range),
    gzip; short (half, then the end), torn (half, then a reset), hold (half, then half_sent is set
    and release awaited, as by stall).
    declared: headers of the redirect to the weights, instead of the right ones.
    authorization: the header without which nothing is answered, or None.
    paths: what it was asked for; requests: {name: [Range, ...]} of content; sent: {name: bytes}.
    """

    def __init__(self, files):
        self.files, self.faults, self.declared, self.authorization = dict(files), {}, None, None
        self.paths, self.requests, self.sent = [], {name: [] for name in files}, Counter()
        self.half_sent, self.release = threading.Event(), threading.Event()

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with contextlib.suppress(ConnectionError):
                    hub.answer(self)

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
        is_hub = request.server is self.servers[0] and "/api/" not in request.path
        self.paths += [request.path] if is_hub else []
        if is_hub and self.authorization not in (None, request.headers.get("Authorization")):
            reply(request, 401)
        elif name not in self.files:
            reply(request, 404)
        elif not is_hub:
            self.send_content(request, name, self.files[name])
        elif name == "model.safetensors":
            sha256 = hashlib.sha256(self.files[name]).hexdigest()
            declared = {"X-Linked-Etag": f'"{sha256}"'} if self.declared is None else self.declared
            reply(request, 302, Location=f"{self.content}/blob/{name}", **declared)
        else:
            reply(request, 307, Location=f"/api/resolve-cache/{name}")

    def send_content(self, request, name, data):
        asked = request.headers.get("Range")
        self.requests[name].append(asked)
        fault = self.faults[name].pop(0) if self.faults.get(name) else ""
        if isinstance(fault, int):
            return reply(request, fault, b"" if fault == 204 else b"junk", **{"Retry-After": 3600})
        if fault in ("stall", "reset"):
            return self.release.wait() if fault == "stall" else reset(request)
        partial = asked and "whole" not in fault
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if partial else 0
        if partial and start >= len(data):
            return reply(request, 416)
        start += "shifted" in fault
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        headers, body = {} if not partial or "unranged" in fault else headers, data[start:]
        if "gzip" in fault or request.headers.get("Accept-Encoding") != "identity":
            headers["Content-Encoding"], body = "gzip", gzip.compress(body, 1)
        n = len(body) // 2 if {"short", "torn", "hold"} & {*fault.split()} else len(body)
        reply(request, 206 if partial else 200, body, n, **headers)
        self.sent[name] += n
        if fault == "hold":
            self.half_sent.set()
            self.release.wait()
            request.wfile.write(body[n:])
        if fault == "torn":
            reset(request)


def reply(request, status, body=b"", n=None, **headers):
    """A whole answer, or one that stops after n bytes of its body."""
    request.send_response(status)
    for key, value in {"Content-Length": len(body), **headers}.items():
        request.send_header(key, str(value))
    request.end_headers()
    request.wfile.write(body[:n])


def reset(request):
    """Close the connection with RST."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
