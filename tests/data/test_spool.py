"""The spool gives back what was written, chunk by chunk."""

import pickle
from pathlib import Path

import numpy as np

from recsys.data.columns import Lists
from recsys.data.encode import Columns
from recsys.data.spool import Spool


def chunk(rows: int, seed: int) -> Columns:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 3, rows)
    return Columns(
        rows,
        {
            "field a": rng.integers(0, 9, rows).astype(np.int32),
            "x": rng.normal(size=rows),
            "label 0": Lists(rng.integers(0, 9, lengths.sum()).astype(np.int32), lengths),
        },
        [rng.random(rows).astype(np.float32) for _ in range(2)],
        group=rng.integers(0, 9, rows),
    )


def test_round_trip(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    written = [chunk(rows, seed) for seed, rows in enumerate((5, 1, 700))]
    for columns in written:
        spool.write(columns)
    found = list(spool.read())
    assert len(found) == 3
    for one, other in zip(found, written, strict=True):
        assert one.num_rows == other.num_rows
        np.testing.assert_array_equal(one.fields["field a"], other.fields["field a"])
        np.testing.assert_array_equal(one.fields["x"], other.fields["x"])
        np.testing.assert_array_equal(one.fields["label 0"].values, other.fields["label 0"].values)
        np.testing.assert_array_equal(
            one.fields["label 0"].lengths, other.fields["label 0"].lengths
        )
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.group, other.group)
        assert one.weight is None
    spool.remove()
    assert list(tmp_path.iterdir()) == []


def test_it_is_read_where_it_was_not_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.write(chunk(50, 0))
    spool.close()
    other = pickle.loads(pickle.dumps(spool))
    found = list(other.read())
    np.testing.assert_array_equal(found[0].fields["x"], chunk(50, 0).fields["x"])
    other.remove()
    assert list(tmp_path.iterdir()) == []
