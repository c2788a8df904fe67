"""Yelp2018: reviews of businesses (the Yelp dataset challenge of 2018).

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

BASE = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data/yelp2018"
PUBLISHED = Published(
    "yelp2018",
    users=31_668,
    items=38_048,
    train=1_237_259,
    test=324_147,
    in_time=True,
    downloads=(
        Download(f"{BASE}/train.txt", "train.txt", "1b8b5d22a227e01d6de002c53d32b4c4"),
        Download(f"{BASE}/test.txt", "test.txt", "0d57d7399862c32152b045ec5d2698e7"),
        Download(f"{BASE}/user_list.txt", "user_list.txt", "ae4f810cd6e827f10fc418753c7d92f9"),
        Download(f"{BASE}/item_list.txt", "item_list.txt", "520fe559761ff2c654629201c807f353"),
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
