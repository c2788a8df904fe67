"""What may be split how, by whom, and whether it fits; the planner works on the meta device."""

import pytest
import torch
from torch import nn

from recsys.embedding import sharding
from recsys.embedding.layout import TableRange
from recsys.embedding.sharding import (
    Cluster,
    agreed,
    check_sharding,
    free_memory,
    kinds_of,
    plan_tables,
    shards,
)
from recsys.errors import ConfigError

GB = 10**9
TABLES = (TableRange("user", 1, 10), TableRange("item", 11, 20))


def collections(rows: dict[str, int], width: int = 16) -> nn.Module:
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

    module = nn.Module()
    module.rows = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=name, num_embeddings=count, embedding_dim=width, feature_names=[name]
            )
            for name, count in rows.items()
        ],
        device=torch.device("meta"),
    )
    return module


def plan(rows: dict[str, int], cluster: Cluster, kinds: tuple[str, ...], width: int = 16) -> dict:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType

    params = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.1}
    module = collections(rows, width)
    found = plan_tables(module, dict.fromkeys(rows, kinds), cluster, 1024, params)
    return dict(found.plan["rows"])


def test_kinds_by_table() -> None:
    assert kinds_of(TABLES, "row_wise", "sgd") == {"user": ("row_wise",), "item": ("row_wise",)}
    found = kinds_of(TABLES, {"user": "data_parallel"}, "rowwise_adagrad")
    assert found["user"] == ("data_parallel",)
    assert found["item"] == ("table_wise", "row_wise")
    assert "column_wise" in kinds_of(TABLES, "auto", "adagrad")["item"]


def test_columns_and_one_number_per_row_do_not_go_together() -> None:
    for kind in sharding.SPLIT_COLUMNS:
        with pytest.raises(ConfigError, match=r"one number per row.*optimizer=adagrad or sgd"):
            kinds_of(TABLES, kind, "rowwise_adagrad")


def test_unknown_kinds_and_tables_are_named() -> None:
    with pytest.raises(ConfigError, match=r'"rowwise".*Did you mean row_wise'):
        check_sharding("rowwise")
    with pytest.raises(ConfigError, match='"none" does not exist'):
        check_sharding({"user": "none"})
    with pytest.raises(ConfigError, match=r'"usr", which has no table.*user'):
        kinds_of(TABLES, {"usr": "row_wise"}, "sgd")


def test_what_shards() -> None:
    assert not shards("none")
    assert not shards("data_parallel")
    assert shards("auto")
    assert shards({"user": "data_parallel"})


def test_a_table_too_large_for_one_process_is_split() -> None:
    """150 GB of weights and state on eight processes of 80 GB: by rows alone."""
    found = plan({"big": 2 * GB}, Cluster(8, 8, "cuda", 80 * GB), ("table_wise", "row_wise"))
    assert found["big"].sharding_type == "row_wise"
    assert len(found["big"].ranks) == 8


@pytest.mark.parametrize("kind", sharding.KINDS)
def test_every_kind_can_be_planned_on_cpus(kind: str) -> None:
    found = plan({"one": 100, "two": 5}, Cluster(2, 2, "cpu", GB), (kind,), width=20)
    for one in found.values():
        assert one.sharding_type == kind
        assert one.compute_kernel == "fused"
        assert one.bounds_check_mode.name == "FATAL"
        assert sum(s.shard_sizes[0] * s.shard_sizes[1] for s in one.sharding_spec.shards) > 0


def test_what_does_not_fit_is_said_with_its_numbers() -> None:
    with pytest.raises(ConfigError) as refused:
        plan({"big": 10 * GB, "small": 10}, Cluster(2, 2, "cpu", 8 * GB), ("table_wise",))
    text = str(refused.value)
    for piece in ("596.05 GiB", "big", "2 processes", "6.33 GiB", "{big: row_wise}"):
        assert piece in text, piece


def test_memory_is_what_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    whole = free_memory(torch.device("cpu"))
    assert 0 < whole <= psutil.virtual_memory().total
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(torch.device("cpu")) < whole / 2


def test_alone_there_is_nothing_to_agree_on() -> None:
    assert agreed(lambda: 3) == 3
    with pytest.raises(ConfigError, match="why"):
        agreed(_refuse)


def _refuse() -> int:
    raise ConfigError("why")
