"""A server on loopback that behaves like the Hugging Face hub, and fails like it when told to."""
import contextlib
import gzip
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Serves files {name: bytes}, whatever the repository and the revision.

    As on the real hub, a file's address redirects to where its content is, and what is sent is
    compressed unless the request says otherwise.

    faults {name: [fault, ...]}: each request for a file's content uses one up. A fault is an HTTP
    status (with a Retry-After of two hours) or one of these words:
        reset: the connection breaks off, and nothing has been sent.
        silent: nothing is sent, until release is set.
        empty, short: nothing or half is sent of what was announced, and then comes the end.
        hold: half is sent, half_sent is set, and the rest is sent when release is set.
        whole: the file is sent from its beginning, whatever Range asks for.
        shifted: what is sent begins one byte later than what Range asks for.
    paths: the addresses that were asked for; ranges: {name: [Range of each request for content]}.
    """

    def __init__(self, files):
        self.files = dict(files)
        self.faults = {}
        self.paths = []
        self.ranges = {name: [] for name in files}
        self.half_sent = threading.Event()
        self.release = threading.Event()

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with contextlib.suppress(ConnectionError):  # the client may leave
                    hub.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        name = request.path.rsplit("/", 1)[1]
        if request.path.startswith("/content/"):
            self.ranges[name].append(request.headers["Range"])
            faults = self.faults.get(name)
            fault = faults.pop(0) if faults else None
            self.send_content(request, self.files[name], fault)
            return

        self.paths.append(request.path)
        if name in self.files:
            reply(request, 302, Location=f"/content/{name}")
        else:
            reply(request, 404)

    def send_content(self, request, data, fault):
        begin = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if isinstance(fault, int):
            reply(request, fault, b"" if fault == 204 else b"junk", **{"Retry-After": "7200"})
        elif fault == "reset":
            reset(request)
        elif fault == "silent":
            self.release.wait()
        elif fault == "whole":
            reply(request, 200, data)
        elif begin >= len(data):
            reply(request, 416)
        else:
            begin += fault == "shifted"
            self.send_range(request, data[begin:], f"{begin}-{len(data) - 1}/{len(data)}", fault)

    def send_range(self, request, body, sent, fault):
        headers = {"Content-Range": f"bytes {sent}"}
        if request.headers["Accept-Encoding"] != "identity":
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 1)

        half = len(body) // 2
        n_sent = {"empty": 0, "short": half, "hold": half}.get(fault, len(body))
        reply(request, 206, body, n_sent, **headers)
        if fault == "hold":
            self.half_sent.set()
            self.release.wait()
            request.wfile.write(body[half:])


def reply(request, status, body=b"", n_sent=None, **headers):
    """A whole reply, or one that stops after n_sent bytes of its body."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body[:n_sent])


def reset(request):
    """Close the connection with RST."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
