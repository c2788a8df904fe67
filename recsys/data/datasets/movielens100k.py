"""MovieLens 100K: will a person like a movie (Harper and Konstan, TiiS 2015).

100,000 ratings of 1,682 movies by 943 people, from September 1997 to April 1998. A rating becomes
a label by a rule of this recipe; the split is `data.split`, random or by time.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsys.data.datasets.files import Download, check_count, find, open_folder, read_bytes
from recsys.data.histories import MAX_LENGTH, with_histories
from recsys.data.interactions import Interactions
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.errors import ConfigError, SchemaError

NUM_RATINGS, NUM_USERS, NUM_MOVIES = 100_000, 943, 1_682
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
DOWNLOADS = (
    Download(
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        "ml-100k.zip",
        "0e33842e24a9c977be4e0107933c0723",
        {f"ml-100k/{name}": name for name in ("u.data", "u.user", "u.item")},
    ),
)


def build(
    *,
    source: str | Path | None = None,
    positive: int = 4,
    negative: int = 3,
    history: bool = False,
) -> RawDataset:
    """Join ratings with people and movies.

    Args:
        source: Folder with `u.data`, `u.user` and `u.item`, plain or gzipped; None downloads them.
        positive: Lowest rating, of 1 to 5, with label 1.
        negative: Highest rating with label 0; ratings between the two are left out.
        history: Add the movies that the person liked strictly before. Use it with
            `data.split=time`: after a random split it would hold test labels.

    Raises:
        SchemaError: A file is absent, or its rows are not those published.
    """
    if not 1 <= negative < positive <= 5:
        raise ConfigError(
            f"data.positive={positive} and data.negative={negative}: ratings are 1 to 5, and "
            "positive must be above negative."
        )
    folder = open_folder("movielens100k", source, DOWNLOADS)
    frame = ratings(folder).join(users(folder), on="user", maintain_order="left")
    frame = frame.join(movies(folder).drop("title"), on="item", maintain_order="left")
    frame = frame.filter((pl.col("rating") >= positive) | (pl.col("rating") <= negative))
    frame = frame.with_columns(label=(pl.col("rating") >= positive).cast(pl.Int8))
    if history:
        frame = with_histories(
            frame,
            {"history": "item"},
            user="user",
            time="timestamp",
            where=pl.col("label") == 1,
        )
    return RawDataset(
        name="movielens100k",
        files={"all": Source.from_frame(frame, str(folder / "u.data"))},
        schema=_schema(history),
    )


def interactions(
    *,
    source: str | Path | None = None,
    positive: int = 4,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Interactions:
    """Who liked which movie, with the movies' titles; and for towers age, gender, occupation and
    zip of people, year and genres of movies.

    Args:
        source: Folder with `u.data`, `u.user` and `u.item`, plain or gzipped; None downloads them.
        positive: Lowest rating, of 1 to 5, that counts.
        test_fraction: Share of each person's movies that is tested, drawn at random.
        split_seed: Of that choice.

    Raises:
        SchemaError: A file is absent, or its rows are not those published.
    """
    if not 1 <= positive <= 5:
        raise ConfigError(f"data.positive={positive}; ratings are 1 to 5.")
    if not 0 < test_fraction < 1:
        raise ConfigError(f"data.test_fraction={test_fraction}; it must lie between 0 and 1.")
    folder = open_folder("movielens100k", source, DOWNLOADS)
    liked = ratings(folder).filter(pl.col("rating") >= positive)
    films = movies(folder)
    whole = Interactions.of(
        "movielens100k", liked, titles=films, users=users(folder), items=films.drop("title")
    )
    return whole.with_test(test_fraction, split_seed)


def ratings(folder: Path) -> pl.DataFrame:
    """Columns user, item, rating and timestamp (seconds), in the order of the file."""
    names = ["user", "item", "rating", "timestamp"]
    frame = _read(folder, "u.data", "\t", names)
    frame = frame.with_columns(pl.all().cast(pl.Int64))
    check_count("movielens100k", "ratings", frame.height, NUM_RATINGS)
    return frame


def users(folder: Path) -> pl.DataFrame:
    """Columns user, age, gender, occupation and zip."""
    frame = _read(folder, "u.user", "|", ["user", "age", "gender", "occupation", "zip"])
    check_count("movielens100k", "people", frame.height, NUM_USERS)
    return frame.with_columns(pl.col("user", "age").cast(pl.Int64))


def movies(folder: Path) -> pl.DataFrame:
    """Columns item, title, year (of release, null where unknown) and genres (a list)."""
    names = ["item", "title", "date", "video_date", "url", *GENRES]
    frame = _read(folder, "u.item", "|", names)
    check_count("movielens100k", "movies", frame.height, NUM_MOVIES)
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES]
    return frame.select(
        pl.col("item").cast(pl.Int64),
        "title",
        year=pl.col("date").str.slice(-4).cast(pl.Int64),
        genres=pl.concat_list(flags).list.drop_nulls(),
    )


def _read(folder: Path, name: str, separator: str, columns: list[str]) -> pl.DataFrame:
    file = find("movielens100k", folder, name)
    try:
        return pl.read_csv(
            read_bytes(file).decode("latin1").encode(),
            separator=separator,
            has_header=False,
            new_columns=columns,
            infer_schema=False,
            quote_char=None,
        )
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{file} is not the {name} of MovieLens 100K: {error}") from error


def _schema(history: bool) -> Schema:
    def field(name: str, kind: Kind, dtype: str, **keys: object) -> Field:
        encoding = Encoding.QUANTILE if kind is Kind.NUMERIC else Encoding.VOCABULARY
        return Field(name=name, kind=kind, encoding=encoding, dtype=dtype, **keys)  # type: ignore[arg-type]

    fields = [
        field("user", Kind.CATEGORICAL, "int"),
        field("item", Kind.CATEGORICAL, "int"),
        field("age", Kind.NUMERIC, "int"),
        field("gender", Kind.CATEGORICAL, "string"),
        field("occupation", Kind.CATEGORICAL, "string"),
        field("zip", Kind.CATEGORICAL, "string"),
        field("year", Kind.CATEGORICAL, "int"),
        field("genres", Kind.MULTIVALUED, "string", max_length=len(GENRES)),
    ]
    if history:
        fields.append(field("history", Kind.HISTORY, "int", max_length=MAX_LENGTH, shares="item"))
    return Schema(tuple(fields), ("label",), group="user", timestamp="timestamp")
