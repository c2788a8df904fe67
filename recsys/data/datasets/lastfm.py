"""Last.FM: artists that people listened to (HetRec 2011), the split shipped with LightGCN-PyTorch.

Files of the repository gusye1234/LightGCN-PyTorch, folder data/lastfm: `user item weight`, ids from
1; the weights are not used. There is no validation part.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsys.data.datasets.files import Download, check_count, find, open_folder, read_bytes
from recsys.data.interactions import Interactions
from recsys.errors import SchemaError

BASE = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data/lastfm"
DOWNLOADS = (
    Download(f"{BASE}/data1.txt", "data1.txt", "e7c5c2fc3656d1ee36f9058c7171c91e"),
    Download(f"{BASE}/test1.txt", "test1.txt", "5a38560484bc7d4140827e97e290fec8"),
)
PUBLISHED = {"data1.txt": 42_135, "test1.txt": 10_533}


def interactions(*, source: str | Path | None = None) -> Interactions:
    """Read the published pairs.

    Args:
        source: Folder with `data1.txt` and `test1.txt`, plain or gzipped; None downloads them.

    Raises:
        SchemaError: A file is absent, or its pairs are not those published.
    """
    folder = open_folder("lastfm", source, DOWNLOADS)
    train, test = (_read(folder, name, size) for name, size in PUBLISHED.items())
    return Interactions.of("lastfm", train, test)


def _read(folder: Path, name: str, size: int) -> pl.DataFrame:
    file = find("lastfm", folder, name)
    try:
        frame = pl.read_csv(
            read_bytes(file),
            separator="\t",
            has_header=False,
            new_columns=["user", "item", "weight"],
            schema_overrides={"user": pl.Int64, "item": pl.Int64, "weight": pl.Float64},
        )
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{file} is not the {name} of Last.FM: {error}") from error
    check_count("lastfm", f"pairs in {name}", frame.height, size)
    return frame
