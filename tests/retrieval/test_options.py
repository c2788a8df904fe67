"""Options of an index, and the YAML files that hold them."""

from typing import Any

import pytest

from recsys import config
from recsys.errors import ConfigError
from recsys.retrieval.options import AUTO, FLAT_ITEMS, GRIDS, KINDS, RetrievalOptions


@pytest.mark.parametrize("kind", [*KINDS, AUTO])
def test_every_file_has_the_defaults(kind: str) -> None:
    node = config.compose("build_index", [f"retrieval={kind}"]).retrieval
    assert config.build_options(RetrievalOptions, node, "retrieval") == RetrievalOptions(kind=kind)
    assert sorted([*KINDS, AUTO]) == config.options("retrieval")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "hsnw"}, "Did you mean hnsw"),
        ({"min_recall": 1.1}, r"min_recall=1\.1; it must be above 0, at most 1"),
        ({"min_recall": 0.0}, "min_recall"),
        ({"norm_ratio": 1.0}, "norm_ratio"),
        ({"k": 0}, "k=0"),
        ({"queries": 0}, "queries=0"),
        ({"neighbors": 2}, "neighbors=2; it must be 4 to 128"),
        ({"num_lists": 0}, "num_lists=0"),
        ({"code_bytes": 0}, "code_bytes=0"),
        ({"grid": [4, 2]}, r"grid=\[4, 2\]; give ascending"),
        ({"grid": []}, r"grid=\[\]"),
        ({"grid": [0, 1]}, r"grid=\[0, 1\]"),
    ],
)
def test_impossible_values(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RetrievalOptions(**keys)


def test_what_is_tried() -> None:
    assert RetrievalOptions().kinds(FLAT_ITEMS) == ("flat",)
    assert RetrievalOptions().kinds(FLAT_ITEMS + 1) == ("ivf", "hnsw", "flat")
    assert RetrievalOptions(kind="ivf").kinds(5) == ("ivf",)
    assert RetrievalOptions(grid=[3]).efforts("ivf") == (3,)
    assert RetrievalOptions(grid=[3]).efforts("flat") == GRIDS["flat"]
