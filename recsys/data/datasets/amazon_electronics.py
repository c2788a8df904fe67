"""Amazon Electronics, small: the split of NBPO that UltraGCN was tested on (Mao et al., CIKM 2021).

Files of the repository xue-pai/UltraGCN, folder data/electronics. There is no validation part: the
papers chose by the test pairs (`selection=test`).
"""

from __future__ import annotations

from pathlib import Path

from recsys.data.datasets.adjacency import Published, read_adjacency
from recsys.data.datasets.files import Download
from recsys.data.interactions import Interactions

BASE = "https://raw.githubusercontent.com/xue-pai/UltraGCN/main/data/electronics"
PUBLISHED = Published(
    "amazon_electronics",
    users=1_435,
    items=1_522,
    train=31_887,
    test=4_044,
    downloads=(
        Download(f"{BASE}/train.txt", "train.txt", "8eb4327b8e7d61ef47d3bcaec14d46a7"),
        Download(f"{BASE}/test.txt", "test.txt", "7d2d1054dba77982fe1b4d5c2d5e7fbe"),
    ),
)


def interactions(*, source: str | Path | None = None) -> Interactions:
    """Read the published pairs.

    Args:
        source: Folder with `train.txt` and `test.txt`, plain or gzipped; None downloads them.

    Raises:
        SchemaError: A file is absent, or its pairs are not those published.
    """
    return read_adjacency(PUBLISHED, source)
