"""Gowalla: check-ins at places (Cho et al., KDD 2011).

The split of NGCF and LightGCN (Wang et al., SIGIR 2019; He et al., SIGIR 2020), as published in the
repository gusye1234/LightGCN-PyTorch. There is no validation part: the papers chose by the test
pairs (`selection=test`).

Lines are in order of time and the test pairs are each user's last, though the papers call the split
random (`Published.in_time` says how that shows), so the validation part is each line's last items.
"""

from __future__ import annotations

from pathlib import Path

from recsys.data.datasets.adjacency import Published, read_adjacency
from recsys.data.datasets.files import Download
from recsys.data.interactions import Interactions

BASE = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data/gowalla"
PUBLISHED = Published(
    "gowalla",
    users=29_858,
    items=40_981,
    train=810_128,
    test=217_242,
    in_time=True,
    downloads=(
        Download(f"{BASE}/train.txt", "train.txt", "5eec1eb2edb8dd648377d348b8e136cf"),
        Download(f"{BASE}/test.txt", "test.txt", "c04e2c4bcd2389f53ed8281816166149"),
        Download(f"{BASE}/user_list.txt", "user_list.txt", "f83ec6f2cd974ba6470e8808830cc144"),
        Download(f"{BASE}/item_list.txt", "item_list.txt", "13b1c0d75b07b8cea9413f40042f476f"),
    ),
)


def interactions(*, source: str | Path | None = None) -> Interactions:
    """Read the published pairs.

    Args:
        source: Folder with `train.txt`, `test.txt` and, for the original ids, `user_list.txt` and
            `item_list.txt`, plain or gzipped; None downloads them.

    Raises:
        SchemaError: A file is absent, or its pairs are not those published.
    """
    return read_adjacency(PUBLISHED, source)
