"""Files by address: object stores and whatever else pyarrow or fsspec can reach.

    s3://bucket/key  gs://...  abfs://...  hdfs://...  file:///...     pyarrow
    memory://  http://  https://  and the other protocols of fsspec     fsspec

Credentials come from the environment, in the way of each service (`AWS_ACCESS_KEY_ID`,
`AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, ...); an address that holds any is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec
import pyarrow as pa
from pyarrow import fs as pafs

from recsys.errors import ConfigError, SchemaError

CONNECT_SECONDS = 5
REQUEST_SECONDS = 30
ATTEMPTS = 2
BY_PYARROW = ("file", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")


def is_address(path: object) -> bool:
    """Whether a path names a protocol.

    Example:
        >>> is_address("s3://bucket/clicks.parquet"), is_address("clicks.parquet")
        (True, False)
    """
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


@dataclass(frozen=True)
class Place:
    """A file or folder behind an address; it may travel to other processes.

    Args:
        address: As it was given, without a slash at its end.
        filesystem: That reaches it.
        path: Of it, there.
    """

    address: str
    filesystem: pafs.FileSystem
    path: str

    @classmethod
    def of(cls, address: str) -> Place:
        """Find the file system of an address; nothing is read.

        Raises:
            ConfigError: the protocol is not known, or the address holds credentials.
        """
        protocol, _, rest = address.partition("://")
        if "@" in rest.partition("/")[0]:
            raise ConfigError(
                f"the address {protocol}://...@{rest.partition('@')[2]} holds credentials, which "
                "would end in logs. Leave them out: they are taken from the environment."
            )
        address = address.rstrip("/")
        with reaching(address):
            filesystem, path = _filesystem(protocol.lower(), address)
        return cls(address, filesystem, path)

    @property
    def name(self) -> str:
        """The last part."""
        return self.address.rpartition("/")[2]

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.address}/{name}", self.filesystem, f"{self.path}/{name}")

    def info(self) -> pafs.FileInfo:
        """Kind, size and time; of the kind `NotFound` where there is nothing."""
        with reaching(self.address):
            return self.filesystem.get_file_info(self.path)

    def below(self) -> list[Place]:
        """All files in a folder and its folders, in name order."""
        with reaching(self.address):
            found = self.filesystem.get_file_info(pafs.FileSelector(self.path, recursive=True))
        prefix = self.path.rstrip("/") + "/"
        names = sorted(
            one.path.removeprefix(prefix) for one in found if one.type is pafs.FileType.File
        )
        return [self / name for name in names]

    def read(self) -> bytes:
        """All of a file."""
        with reaching(self.address), self.filesystem.open_input_file(self.path) as handle:
            return handle.read()

    def write(self, data: bytes | memoryview) -> None:
        """Make a file, and the folders above it where the file system has such."""
        with reaching(self.address):
            if not isinstance(self.filesystem, pafs.S3FileSystem):
                self.filesystem.create_dir(self.path.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(self.path) as handle:
                handle.write(data)


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Turn a failure into an error that says which address, and what to look at."""
    try:
        yield
    except (OSError, pa.ArrowException, ImportError, ValueError) as error:
        if isinstance(error, SchemaError | ConfigError):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SchemaError(
            f"{address} cannot be reached ({lines[0]}). Check the address, the network and the "
            "credentials, which are taken from the environment."
        ) from error


def _filesystem(protocol: str, address: str) -> tuple[pafs.FileSystem, str]:
    if protocol == "s3":
        # By hand: `from_uri` has no limits of time, and asks the service for the bucket's region.
        filesystem = pafs.S3FileSystem(
            connect_timeout=CONNECT_SECONDS,
            request_timeout=REQUEST_SECONDS,
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL"),
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        )
        return filesystem, address.partition("://")[2]
    if protocol in BY_PYARROW:
        return pafs.FileSystem.from_uri(address)
    if protocol not in fsspec.available_protocols():
        raise ConfigError(
            f"the address {address} begins with {protocol}://, which is not known. Allowed: s3, "
            f"{', '.join(BY_PYARROW)}, and what fsspec knows, memory and https among them."
        )
    found, path = fsspec.core.url_to_fs(address)
    return pafs.PyFileSystem(pafs.FSSpecHandler(found)), path


def expand(address: str, endings: Sequence[str]) -> list[Place]:
    """Files behind an address: a file, a folder, or a pattern with * and ?.

    Args:
        address: Of it.
        endings: Of the files that can be read.

    Raises:
        SchemaError: nothing is there, it is of another format, or it cannot be reached.
    """
    parts = address.rstrip("/").split("/")
    signs = [position for position, part in enumerate(parts) if "*" in part or "?" in part]
    if signs:
        folder = Place.of("/".join(parts[: signs[0]]))
        pattern = re.compile("/".join(_as_pattern(part) for part in parts[signs[0] :]))
        below = folder.below()
        found = [one for one in below if pattern.fullmatch(one.address[len(folder.address) + 1 :])]
    else:
        place = Place.of(address)
        kind = place.info().type
        found = [] if kind is pafs.FileType.NotFound else [place]
        if kind is pafs.FileType.Directory:
            found = [one for one in place.below() if one.name.endswith(tuple(endings))]
    found = [one for one in found if not one.name.startswith((".", "_"))]
    if not found:
        raise SchemaError(
            f"no data file at {address}; give a file, a folder or a pattern of files that end in "
            f"{', '.join(endings)}. Check data.path, and that the credentials of the environment "
            "may list it."
        )
    for one in found:
        if not one.name.endswith(tuple(endings)):
            raise SchemaError(
                f"{one.address} is of a format that is not read from an address; allowed endings: "
                f"{', '.join(endings)}. Convert it, or copy it to this machine."
            )
    return found


def _as_pattern(part: str) -> str:
    signs = {"*": "[^/]*", "?": "[^/]"}
    return "".join(signs.get(sign, re.escape(sign)) for sign in part)
