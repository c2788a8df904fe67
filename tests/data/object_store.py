"""A small object store on this machine that answers as S3 does: enough to list, read and write."""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

TIME = "Mon, 02 Nov 2026 10:00:00 GMT"
LISTED_TIME = "2026-11-02T10:00:00.000Z"


class ObjectStore(ThreadingHTTPServer):
    """Objects by `bucket/key`, and the bytes that were sent of each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.sent: dict[str, int] = {}
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    server = ObjectStore()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ObjectStore

    def log_message(self, format: str, *arguments: object) -> None:
        del format, arguments

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).strip("/")

    @property
    def _query(self) -> dict[str, str]:
        found = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {key: values[0] for key, values in found.items()}

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        named = {"Content_Length": str(len(body)), "Last_Modified": TIME, **headers}
        for name, value in named.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self) -> None:
        self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")

    def do_HEAD(self) -> None:
        data = self.server.objects.get(self._key)
        if data is None:
            self._answer(404)
        else:
            self._answer(200, Content_Length=str(len(data)), ETag=_tag(data))

    def do_GET(self) -> None:
        if "list-type" in self._query:
            self._list()
            return
        data = self.server.objects.get(self._key)
        if data is None:
            self._missing()
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = 0, len(data)
        if span:
            start, stop = int(span[1]), min(int(span[2] or len(data)) + 1, len(data))
        body = data[start:stop]
        with self.server.lock:
            self.server.sent[self._key] = self.server.sent.get(self._key, 0) + len(body)
        where = {"Content_Range": f"bytes {start}-{stop - 1}/{len(data)}"} if span else {}
        self._answer(206 if span else 200, body, ETag=_tag(data), **where)

    def _list(self) -> None:
        bucket, prefix, delimiter = self._key, self._query.get("prefix", ""), "delimiter"
        split = self._query.get(delimiter, "")
        keys = [key.removeprefix(f"{bucket}/") for key in sorted(self.server.objects)
                if key.startswith(f"{bucket}/{prefix}")]  # fmt: skip
        files, folders = [], set()
        for key in keys:
            rest = key.removeprefix(prefix)
            if split and split in rest:
                folders.add(prefix + rest.partition(split)[0] + split)
            else:
                files.append(key)
        limit = int(self._query.get("max-keys", "1000"))
        listed = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{LISTED_TIME}</LastModified>"
            f"<Size>{len(self.server.objects[f'{bucket}/{key}'])}</Size></Contents>"
            for key in files[:limit]
        )
        listed += "".join(
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>"
            for one in sorted(folders)
        )
        body = (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(files) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
            f"{listed}</ListBucketResult>"
        )
        self._answer(200, body.encode(), Content_Type="application/xml")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            data = b"".join(iter(self._chunk, b""))
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return (
            _unwrapped(data) if "aws-chunked" in self.headers.get("Content-Encoding", "") else data
        )

    def _chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline().split(b";")[0], 16))
        self.rfile.readline()
        return data

    def do_PUT(self) -> None:
        data, query = self._body(), self._query
        if "uploadId" in query:
            self.server.uploads[self._key][int(query["partNumber"])] = data
        else:
            self.server.objects[self._key] = data
        self._answer(200, ETag=_tag(data))

    def do_POST(self) -> None:
        self._body()
        if "uploads" in self._query:
            self.server.uploads[self._key] = {}
            body = (
                "<InitiateMultipartUploadResult><UploadId>1</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
        else:
            parts = self.server.uploads.pop(self._key)
            self.server.objects[self._key] = b"".join(parts[number] for number in sorted(parts))
            body = "<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
        self._answer(200, body.encode(), Content_Type="application/xml")


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _unwrapped(data: bytes) -> bytes:
    """The client's own chunks, inside those of HTTP; a checksum follows the last."""
    out, at = b"", 0
    while True:
        end = data.index(b"\r\n", at)
        length = int(data[at:end].split(b";")[0], 16)
        if not length:
            return out
        out += data[end + 2 : end + 2 + length]
        at = end + 4 + length
