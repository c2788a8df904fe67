"""The table of a field, read from the file of a saved model: what the lookup itself gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.data.schema import NUM_RESERVED
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.row_gates import RowGates
from recsys.errors import CheckpointError, ConfigError
from recsys.models.saved import SavedModel
from recsys.retrieval.field_table import FieldVectors
from tests.retrieval.conftest import click_frame, click_model

LAYOUTS = {
    "full": EmbeddingOptions(dim=4, init_std=0.5),
    "hashed": EmbeddingOptions(layout="hashed", dim=4, ratio=0.5, init_std=0.5),
    "multiplexed": EmbeddingOptions(layout="multiplexed", dim=4, ratio=0.5, init_std=0.5),
    "unified": EmbeddingOptions(
        layout="unified", dim=4, ratio=0.5, init_std=0.5, lookups={"item": 2, "user": 1, "city": 1}
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vectors_are_those_of_the_lookup(layout: str, tmp_path: Path) -> None:
    saved = click_model(LAYOUTS[layout])
    folder = saved.save(tmp_path / "model")
    for field in ("user", "item", "city"):
        table = FieldVectors(folder, field)
        found = np.concatenate(list(table.blocks(7)))
        expected = saved.recommender.lookup.field_vectors(field).numpy()
        np.testing.assert_array_equal(found, expected)
        assert table.dim == expected.shape[1]
        assert len(table.ids) == len(expected)
        counts = click_frame()[field].value_counts()
        known = dict(counts.iter_rows())
        assert table.popularity is not None
        assert [known[one] for one in table.ids.to_pylist()] == table.popularity.tolist()


def test_dropped_rows_are_zeros(tmp_path: Path) -> None:
    saved = click_model(LAYOUTS["full"])
    lookup = saved.recommender.lookup
    kept = torch.rand(lookup.storage.num_rows, generator=torch.Generator().manual_seed(0)) < 0.5
    kept[0] = False  # padding
    gates = RowGates(lookup.storage.num_rows, 0.5)
    gates.kept = kept
    lookup.gates = gates
    with torch.no_grad():
        lookup.prune()
    folder = saved.save(tmp_path / "model")
    found = np.concatenate(list(FieldVectors(folder, "item").blocks(16)))
    loaded = SavedModel.load(folder).recommender.lookup.field_vectors("item").numpy()
    np.testing.assert_array_equal(found, loaded)
    gone = (found == 0).all(axis=1)
    assert 0 < gone.sum() < len(gone)


def test_the_first_token_is_the_most_frequent(saved_click: SavedModel, tmp_path: Path) -> None:
    table = FieldVectors(saved_click.save(tmp_path / "model"), "item")
    assert len(table.ids) == (saved_click.pipeline.schema["item"].size or 0) - NUM_RESERVED
    assert table.popularity is not None
    assert (np.diff(table.popularity) <= 0).all()


def test_fields_without_vectors_of_their_own(saved_click: SavedModel, tmp_path: Path) -> None:
    folder = saved_click.save(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"field=itm.*Did you mean item"):
        FieldVectors(folder, "itm")
    with pytest.raises(ConfigError, match=r"field=price"):
        FieldVectors(folder, "price")
    first_order = click_model(EmbeddingOptions(dim=4), "recsys.models.ctr.lr.LR")
    with pytest.raises(ConfigError, match="LR has no vectors"):
        FieldVectors(first_order.save(tmp_path / "lr"), "item")


def test_damaged_folders(saved_click: SavedModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a saved model"):
        FieldVectors(tmp_path / "nothing", "item")
    folder = saved_click.save(tmp_path / "model")
    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="not a saved model"):
        FieldVectors(folder, "item")
    (folder / "weights.safetensors").write_bytes(weights)
    card = json.loads((folder / "model.json").read_text())
    card["version"] = 99
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="version 99"):
        FieldVectors(folder, "item")


def test_a_copy_with_small_tables_names_the_run_to_export(tmp_path: Path) -> None:
    saved = click_model(LAYOUTS["full"])
    folder = saved.with_tables("int8").save(tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"a copy with int8 tables.*it was made of"):
        FieldVectors(folder, "item")
