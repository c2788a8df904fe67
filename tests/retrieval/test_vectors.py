"""Users and items of a model as tables of vectors."""

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.models.saved_cf import SavedCF
from recsys.retrieval.vectors import INNER_PRODUCT, MatrixVectors, vectors_of_cf


def test_dot_products_of_the_vectors_are_the_scores(saved_cf: SavedCF) -> None:
    import torch

    tables = vectors_of_cf(saved_cf)
    users, items = (np.concatenate(list(tables[name].blocks(7))) for name in ("users", "items"))
    scores = saved_cf.model.scores(torch.arange(len(users))).detach().numpy()
    np.testing.assert_allclose(users @ items.T, scores, rtol=1e-5, atol=1e-6)
    assert tables["items"].similarity == INNER_PRODUCT
    assert tables["items"].ids.equals(saved_cf.data.item_ids)
    counts = tables["items"].popularity
    assert counts is not None
    assert counts.sum() == len(saved_cf.data.train)


def test_a_model_without_vectors_says_so(popularity: SavedCF) -> None:
    with pytest.raises(ConfigError, match=r"Popularity has no vectors.*cf=lightgcn"):
        vectors_of_cf(popularity)


def test_blocks_are_all_rows_in_order() -> None:
    matrix = np.arange(20, dtype=np.float32).reshape(10, 2)
    table = MatrixVectors("items", INNER_PRODUCT, None, matrix)
    blocks = list(table.blocks(4))
    assert [len(block) for block in blocks] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), matrix)
    assert table.dim == 2
