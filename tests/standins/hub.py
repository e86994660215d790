"""A server on loopback that behaves like the Hugging Face hub, and fails like it when told to."""
import contextlib
import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Serves files {name: bytes}, whatever the repository and the revision.

    faults: each request for the weights' content uses one up. A fault is an HTTP status (with a
    Retry-After of two hours) or one of these words:
        closed: the connection ends, and nothing has been sent.
        silent: nothing is sent, until release is set.
        empty, short: nothing or half is sent of what was announced, and then comes the end.
        hold: half is sent, half_sent is set, and the rest is sent when release is set.
        whole: the file is sent from its beginning, whatever Range asks for.
    paths: the addresses that were asked for.
    begins: from which byte on the weights' content was asked for, each time.
    """

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Request)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = dict(files)
        self.faults = []
        self.paths = []
        self.begins = []
        self.half_sent = threading.Event()
        self.release = threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.release.set()
        self.shutdown()
        self.server_close()


class Request(BaseHTTPRequestHandler):
    """As on the real hub, a file's address redirects to where its content is."""

    def do_GET(self):
        hub, name = self.server, self.path.split("/")[-1]
        with contextlib.suppress(ConnectionError):  # the client may leave
            if self.path.startswith("/content/"):
                self.send_content(hub, hub.files[name], is_weights=name == "model.safetensors")
            else:
                hub.paths.append(self.path)
                self.reply(302, Location=f"/content/{name}")

    def send_content(self, hub, data, is_weights):
        begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        fault = None
        if is_weights:
            hub.begins.append(begin)
            fault = hub.faults.pop(0) if hub.faults else None

        if isinstance(fault, int):
            self.reply(fault, b"" if fault == 204 else b"junk", **{"Retry-After": "7200"})
        elif fault == "silent":
            hub.release.wait()
        elif fault == "whole":
            self.reply(200, data)
        elif begin >= len(data):
            self.reply(416)
        elif fault != "closed":
            self.send_range(hub, data[begin:], fault)

    def send_range(self, hub, body, fault):
        """A body that is compressed, as on the real hub, unless the request says otherwise."""
        headers = {}
        if self.headers["Accept-Encoding"] != "identity":
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 1)

        half = len(body) // 2
        n_sent = {"empty": 0, "short": half, "hold": half}.get(fault, len(body))
        self.reply(206, body, n_sent, **headers)
        if fault == "hold":
            hub.half_sent.set()
            hub.release.wait()
            self.wfile.write(body[half:])

    def reply(self, status, body=b"", n_sent=None, **headers):
        """A whole reply, or one that stops after n_sent bytes of its body."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:n_sent])

    def log_message(self, *_):
        pass
