"""A Ray cluster: connecting to one, and whether its machines see a folder. Ray is optional."""

from __future__ import annotations

import importlib
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError

RETRIES = 3
MARKER = ".seen-by-every-machine"
CONNECT_SECONDS = 5


@contextmanager
def cluster(address: str, key: str, logs: bool = False) -> Iterator[Any]:
    """The module `ray`, connected; a connection that is there already is used and left open.

    Args:
        address: `local`, `host:port` of a cluster, or `auto`: as `RAY_ADDRESS` says, or the cluster
            that this machine belongs to, or else `local`.
        key: By which the user gave it, for messages.
        logs: Print here what the processes of the cluster print.

    Raises:
        ConfigError: Ray is not installed, does not start, or no cluster is at the address.
    """
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "this needs Ray, which is not installed. Install it on every machine: pip install "
            "'recsys[ray]'. To prepare data without it, set data.engine=local."
        ) from error
    if ray.is_initialized():
        yield ray
        return
    where = None if address == "auto" else address
    if where not in (None, "local"):
        _check_reachable(address, key)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    # A cluster that is begun here is for this work; else Ray gives workers the lowest priority.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray.init(address=where, log_to_driver=logs, logging_level="ERROR")
    except Exception as error:  # Ray raises the bare class for a node that is slow to start
        raise ConfigError(
            f"{key}={address}: Ray does not start, or no cluster answers there "
            f"({first_line(error)}). Start one with `ray start --head`, or set {key}=local."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str, key: str) -> None:
    """Ray itself asks for a minute before it gives up."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://") or not host or not port.isdigit():
        raise ConfigError(
            f"{key}={address}; allowed: auto, local, or host:port of the cluster's head (from "
            "another network, run this command by `ray job submit`)."
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"{key}={address}: nothing answers there ({error}). Start a cluster with `ray start "
            f"--head`, or set {key}=local."
        ) from error


def check_seen(ray: Any, folder: Path) -> None:
    """Let every machine look for a file in the folder.

    Raises:
        ConfigError: one does not see it; the message names the machine.
    """
    marker, word = folder.absolute() / MARKER, uuid.uuid4().hex
    marker.write_text(word)
    schedule = importlib.import_module("ray.util.scheduling_strategies")
    look = ray.remote(num_cpus=0, max_retries=RETRIES)(_look)
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    asked = {
        key: look.options(
            scheduling_strategy=schedule.NodeAffinitySchedulingStrategy(key, soft=False)
        ).remote(str(marker))
        for key in nodes
    }
    blind = [nodes[key]["NodeManagerAddress"] for key, ref in asked.items() if ray.get(ref) != word]
    marker.unlink()
    if blind:
        raise ConfigError(
            f"{folder.absolute().parent} is not the same folder on {', '.join(blind)}: every "
            "machine of the cluster reads and writes there. Choose one that all of them see, by "
            "output_dir or data.store."
        )


def _look(marker: str) -> str | None:
    try:
        return Path(marker).read_text()
    except OSError:
        return None


def first_line(error: BaseException) -> str:
    """What an error says, without its details.

    Example:
        >>> first_line(ValueError("no such thing\\ndetails")), first_line(KeyboardInterrupt())
        ('no such thing', 'KeyboardInterrupt')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
