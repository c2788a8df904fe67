"""Connecting to Ray: what is said when it is absent, silent, or sees another disk."""

import sys
import time
from pathlib import Path

import pytest

from recsys import ray_cluster
from recsys.errors import ConfigError
from recsys.ray_cluster import check_seen, cluster


def test_a_folder_that_all_machines_see(two_workers: object, tmp_path: Path) -> None:
    with cluster("auto", "address") as ray:
        assert ray is two_workers
        check_seen(ray, tmp_path)
    assert ray.is_initialized()  # the connection was there before
    assert not list(tmp_path.iterdir())


def test_a_folder_that_a_machine_does_not_see_is_refused(
    two_workers: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_cluster, "_look", lambda marker: None)
    with pytest.raises(ConfigError, match=r"is not the same folder on \d.*output_dir"):
        check_seen(two_workers, tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://host:10001"])
def test_no_cluster_is_an_error_within_seconds(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    class Ray:
        @staticmethod
        def is_initialized() -> bool:
            return False

    monkeypatch.setitem(sys.modules, "ray", Ray())
    start = time.monotonic()
    with (
        pytest.raises(ConfigError, match=rf"data\.ray_address={address}"),
        cluster(address, "data.ray_address"),
    ):
        pass
    assert time.monotonic() - start < 30


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'recsys\[ray\]'"),
        cluster("local", "address"),
    ):
        pass
