"""Where runs are kept: choosing the MLflow store and finding out early when it cannot be used.

Nothing here imports MLflow, so a bad store is reported in milliseconds, before training starts.
"""

from __future__ import annotations

import http.client
import os
import re
import sqlite3
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from recsys.errors import ConfigError

ENVIRONMENT_VARIABLE = "MLFLOW_TRACKING_URI"
"""Wins over the configuration, as everywhere in MLflow."""

PROBE_SECONDS = 5.0
"""How long a server may take to answer, or a locked database to be released."""


class StoreError(ConfigError):
    """The MLflow store cannot be reached, written or understood."""


def resolve_uri(configured: str | None = None) -> str:
    """Return the store to use: the environment variable, else the configuration, else the default.

    The default is `outputs/mlflow.db` under the current directory, beside the runs themselves.
    Relative SQLite paths become absolute, so that a store is one place whatever changes directory.
    """
    uri = os.environ.get(ENVIRONMENT_VARIABLE) or configured
    if not uri:
        return f"sqlite:///{Path.cwd() / 'outputs' / 'mlflow.db'}"
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The absolute database file of a SQLite URI; None for any other store.

    Example:
        >>> str(sqlite_path("sqlite:////var/lib/mlflow.db"))
        '/var/lib/mlflow.db'
        >>> sqlite_path("http://tracking.example:5000") is None
        True
    """
    prefix = "sqlite:///"
    if not uri.startswith(prefix):
        return None
    return Path.cwd() / unquote(uri.removeprefix(prefix).split("?")[0])


def shown(uri: str) -> str:
    """The URI without its password, for messages.

    Example:
        >>> shown("http://ann:secret@tracking.example:5000")
        'http://ann:***@tracking.example:5000'
    """
    return re.sub(r"(//[^/:@]*):[^/@]*@", r"\1:***@", uri)


def check_store(uri: str, timeout_s: float = PROBE_SECONDS) -> None:
    """Find out whether a store can be written (SQLite, folder) or answers (HTTP); create nothing.

    Other stores (PostgreSQL, Databricks ...) are left for MLflow to open.

    Raises:
        StoreError: it cannot; the message names the URI, the cause and what to do.
    """
    scheme = urlsplit(uri).scheme
    database = sqlite_path(uri)
    if database is not None:
        _check_sqlite(uri, database, timeout_s)
    elif scheme in ("http", "https"):
        _check_server(uri, timeout_s)
    elif scheme in ("", "file"):
        _check_folder(uri, Path(unquote(urlsplit(uri).path)).absolute())


def unusable(uri: str, cause: object) -> StoreError:
    """The error every store problem is reported with."""
    return StoreError(
        f"the MLflow store {shown(uri)} cannot be used: {cause}. Correct tracking.uri (or the "
        f"environment variable {ENVIRONMENT_VARIABLE}, which wins), or train without tracking: "
        "tracking=none."
    )


def _check_sqlite(uri: str, database: Path, timeout_s: float) -> None:
    if not database.exists():
        _check_folder(uri, database.parent)
        return
    try:
        connection = sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=timeout_s)
        try:
            connection.execute("BEGIN IMMEDIATE")
            # A read-only file is noticed at the first write, which is taken back.
            connection.execute("PRAGMA user_version = 0")
            connection.rollback()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise unusable(uri, f"{error} ({database})") from error


def _check_folder(uri: str, folder: Path) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise unusable(uri, f"{folder} cannot be written ({error.strerror})") from error


def _check_server(uri: str, timeout_s: float) -> None:
    parts = urlsplit(uri)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=timeout_s):
            pass
    except urllib.error.HTTPError as error:
        # Any answer below 500 is a server: it may want credentials, which MLflow will send.
        if error.code >= 500:
            raise unusable(uri, f"the server answers {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        # A certificate this probe does not trust still proves that a server is there.
        if "CERTIFICATE" not in str(reason).upper():
            raise unusable(uri, f"the server does not answer ({reason})") from error


def open_client(configured: str | None) -> tuple[Any, str]:
    """A client of the store, and the store's address.

    Args:
        configured: Configured store; `MLFLOW_TRACKING_URI` wins, None is `outputs/mlflow.db`.

    Raises:
        StoreError: the store cannot be used.
    """
    uri = resolve_uri(configured)
    check_store(uri)
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri), uri
