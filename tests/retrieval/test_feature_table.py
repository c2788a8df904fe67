"""Tables of users and items, by external ids."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from recsys.errors import SchemaError
from recsys.retrieval.feature_table import FeatureTable


def test_conditions_and_titles_follow_the_ids(tmp_path: Path) -> None:
    years, titled = [2003, 2001, 2002], ["c", "a", None]
    frame = pl.DataFrame({"film": ["3", "1", "2"], "year": years, "title": titled})
    frame.write_csv(tmp_path / "films.csv")
    table = FeatureTable.open(tmp_path / "films.csv", "film", pa.int64(), "item")
    ids = pa.array([1, 2, 3, 4])
    assert table.where("year>=2002", ids).tolist() == [False, True, True, False]
    titles = table.titles(ids)
    assert titles is not None
    assert titles.to_pylist() == ["a", None, "c", None]
    assert table.frame["film"].dtype == pl.Int64
    frame.drop("title").write_csv(tmp_path / "films.csv")
    bare = FeatureTable.open(tmp_path / "films.csv", "film", pa.int64(), "item")
    assert bare.titles(ids) is None


def test_tables_that_do_not_fit(tmp_path: Path) -> None:
    pl.DataFrame({"film": [3, 1, 3]}).write_parquet(tmp_path / "f.parquet")
    with pytest.raises(SchemaError, match=r"item 3 more than once \(1 such ids\)"):
        FeatureTable.open(tmp_path / "f.parquet", "film", pa.int64(), "item")
    with pytest.raises(SchemaError, match="Did you mean film"):
        FeatureTable.open(tmp_path / "f.parquet", "flim", pa.int64(), "item")
    pl.DataFrame({"film": ["x"]}).write_parquet(tmp_path / "f.parquet")
    with pytest.raises(SchemaError, match="ids of items are int64"):
        FeatureTable.open(tmp_path / "f.parquet", "film", pa.int64(), "item")
