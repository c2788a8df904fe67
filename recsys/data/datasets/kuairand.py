"""KuaiRand-Pure: what a person does with a video (Gao et al., CIKM 2022, arXiv:2208.08696).

Exposures in the app of Kuaishou, 25 April to 8 May 2022, with the users' and videos' features;
kuairand.com, licence CC BY-SA 4.0. Read from the files of a published part of it, whose user table
is complete: `val.parquet` and `test.parquet` (the log), `user_features_pure.csv` and
`video_features_basic_pure.csv`.

The protocol is this recipe's own; no published figure applies to this part:

* an exposure that the log holds twice (same user, video and millisecond) is one row, with a label
  where any of its copies has it: 222,444 rows of 228,329;
* ten days train (25 April to 4 May), two validate (5 and 6 May), two test (7 and 8 May), by the
  time of the exposure in China (UTC+8);
* inputs are what is known before the exposure. What the log tells of its outcome is no input
  (`OUTCOMES`), nor are the videos' own statistics, which were counted over all days;
* no label is nested in click: without one come 18 % of the likes, 0.4 % of the long views, and 3 to
  14 % of each of the others;
* histories hold the videos that the person clicked strictly before, their authors and their tags,
  whatever the labels are; on demand also the videos with other labels (`behaviours`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from recsys.data.datasets.files import check_count, find, open_given_folder, read_bytes
from recsys.data.datasets.labels import choose_labels
from recsys.data.histories import MAX_LENGTH, with_histories
from recsys.data.nested import Nested, parents_first
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.data.split import TimeSplit
from recsys.errors import SchemaError

NAME = "kuairand"
LOGS = ("val.parquet", "test.parquet")
USERS = "user_features_pure.csv"
VIDEOS = "video_features_basic_pure.csv"
NUM_LOGGED = {"val.parquet": 94_784, "test.parquet": 133_545}
NUM_EXPOSURES, NUM_USERS, NUM_VIDEOS = 222_444, 27_285, 7_583
LABELS = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "follow": "is_follow",
    "comment": "is_comment",
    "forward": "is_forward",
    "profile_enter": "is_profile_enter",
}
"""Label to its column in the log."""
OUTCOMES = (
    *LABELS.values(), "is_hate", "play_time_ms", "profile_stay_time", "comment_stay_time",
    "watch_ratio", "finish", "like", "long_watch", "is_positive",
)  # fmt: skip
"""Columns of the log that tell what happened after the exposure: none of them is an input."""
CUTS = (1_651_680_000_000, 1_651_852_800_000)
"""2022-05-05 and 2022-05-07, 00:00 in China, in milliseconds."""
HOUR_MS = 3_600_000
UNKNOWN = -124
"""How the user table writes a flag that is not known."""
CODED = tuple(f"onehot_feat{number}" for number in range(18))
USER_FIELDS = {
    "active_degree": "user_active_degree",
    "live_streamer": "is_live_streamer",
    "video_author": "is_video_author",
    "follow_range": "follow_user_num_range",
    "fans_range": "fans_user_num_range",
    "friend_range": "friend_user_num_range",
    "register_range": "register_days_range",
    **{name: name for name in CODED},
}
VIDEO_FIELDS = ("author", "tag", "video_type", "upload_type", "upload_day", "music_type")
HISTORIES = {"history": "video", "author_history": "author", "tag_history": "tag"}
"""Histories of clicks, and the fields whose tables they share."""


def build(
    *,
    source: str | Path | None = None,
    labels: Sequence[str] | None = None,
    nested: Mapping[str, str] | None = None,
    behaviours: Sequence[str] = ("click",),
    history_length: int = MAX_LENGTH,
) -> RawDataset:
    """Join exposures with users and videos, and add the histories.

    Args:
        source: Folder with the log and the two feature tables, CSV plain or gzipped.
        labels: One or several of `click`, `long_view`, `like`, `follow`, `comment`, `forward` and
            `profile_enter`, in the order of the model's outputs; None is click.
        nested: Label to the label that it then needs, such as long_view: click. None is nested in
            the log (0.35 % of the long views have no click, 18 % of the likes): a nested label is
            made the joint event, 1 where both are.
        behaviours: Of the same names, those that have histories: `click` the three of `HISTORIES`,
            any other the videos with this label, as `like_history`; or none.
        history_length: Events kept per history, the latest.

    Raises:
        ConfigError: A label is unknown or given twice, or `source` is no folder.
        SchemaError: A file is absent, or its rows are not those published.
    """
    labels = choose_labels(NAME, labels, LABELS)
    behaviours = choose_labels(NAME, behaviours, LABELS, "behaviours") if behaviours else ()
    folder = open_given_folder(NAME, source, (*LOGS, USERS, VIDEOS))
    frame = exposures(folder)
    frame = frame.join(users(folder), on="user", how="left", maintain_order="left")
    frame = frame.join(videos(folder), on="video", how="left", maintain_order="left")
    for behaviour in behaviours:
        frame = with_histories(
            frame,
            histories(behaviour),
            user="user",
            time="time_ms",
            max_length=history_length,
            where=pl.col(behaviour) == 1,
        )
    schema = _schema(labels, nested or {}, behaviours, history_length)
    for position in parents_first(schema.parents):  # histories keep what happened
        label = labels[position]
        both = pl.min_horizontal(label, schema.nested[label])
        frame = frame.with_columns(both.alias(label))
    return RawDataset(
        name=NAME,
        files={"all": Source.from_frame(frame.select(schema.columns), str(folder))},
        schema=schema,
        split=TimeSplit("time_ms", cuts=CUTS),
    )


def histories(behaviour: str) -> dict[str, str]:
    """Names of the histories of one behaviour, and the fields whose tables they share.

    Example:
        >>> histories("like")
        {'like_history': 'video'}
    """
    return HISTORIES if behaviour == "click" else {f"{behaviour}_history": "video"}


def exposures(folder: Path) -> pl.DataFrame:
    """Columns user, video, time_ms, hour, tab, duration and all labels; each exposure once."""
    frames = []
    for name in LOGS:
        file = find(NAME, folder, name)
        try:
            frame = pl.read_parquet(file).select(
                pl.col("user_id").alias("user"),
                pl.col("video_id").alias("video"),
                "time_ms",
                "tab",
                pl.col("duration_ms").alias("duration"),
                *(pl.col(column).alias(label) for label, column in LABELS.items()),
            )
        except (pl.exceptions.PolarsError, OSError) as error:
            raise SchemaError(f"{file} is not the log of KuaiRand-Pure: {error}") from error
        check_count(NAME, f"rows in {name}", frame.height, NUM_LOGGED[name])
        frames.append(frame)
    one = ["user", "video", "time_ms"]
    frame = (
        pl.concat(frames)
        .group_by(one, maintain_order=True)
        .agg(pl.col("tab", "duration").first(), pl.col(*LABELS).max().cast(pl.Int8))
    )
    check_count(NAME, "exposures", frame.height, NUM_EXPOSURES)
    return frame.with_columns(hour=(pl.col("time_ms") // HOUR_MS + 8) % 24)


def users(folder: Path) -> pl.DataFrame:
    """Column user, and those of `USER_FIELDS`."""
    frame = _read(folder, USERS)
    check_count(NAME, "people", frame.height, NUM_USERS)
    flags = pl.col("live_streamer", "video_author")
    return frame.select(
        pl.col("user_id").alias("user"),
        *(pl.col(column).alias(name) for name, column in USER_FIELDS.items()),
    ).with_columns(
        pl.when(flags != UNKNOWN).then(flags),
        pl.col(CODED).cast(pl.Int64),
        active_degree=pl.when(pl.col("active_degree") != "UNKNOWN").then("active_degree"),
    )


def videos(folder: Path) -> pl.DataFrame:
    """Column video, and those of `VIDEO_FIELDS`; a tag may be several numbers, as published."""
    frame = _read(folder, VIDEOS)
    check_count(NAME, "videos", frame.height, NUM_VIDEOS)
    return frame.select(
        pl.col("video_id").alias("video"),
        pl.col("author_id").alias("author"),
        "tag",
        "video_type",
        "upload_type",
        pl.col("upload_dt").alias("upload_day"),
        pl.col("music_type").cast(pl.Int64),
    )


def _read(folder: Path, name: str) -> pl.DataFrame:
    file = find(NAME, folder, name)
    try:
        return pl.read_csv(
            read_bytes(file), infer_schema_length=None, schema_overrides={"tag": pl.String}
        )
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{file} is not a table of KuaiRand-Pure: {error}") from error


def _schema(
    labels: tuple[str, ...],
    nested: Mapping[str, str],
    behaviours: Sequence[str],
    history_length: int,
) -> Schema:
    texts = {"active_degree", "tag", "video_type", "upload_type", "upload_day"}
    texts |= {name for name in USER_FIELDS if name.endswith("_range")}

    def field(name: str, kind: Kind = Kind.CATEGORICAL, **keys: object) -> Field:
        encoding = Encoding.QUANTILE if kind is Kind.NUMERIC else Encoding.VOCABULARY
        dtype = "string" if keys.get("shares", name) in texts else "int"
        return Field(name=name, kind=kind, encoding=encoding, dtype=dtype, **keys)  # type: ignore[arg-type]

    fields = [field(name) for name in ("user", "video", "tab", "hour")]
    fields += [field(name) for name in (*VIDEO_FIELDS, *USER_FIELDS)]
    fields.append(field("duration", Kind.NUMERIC, num_buckets=32))
    for behaviour in behaviours:
        for name, shares in histories(behaviour).items():
            fields.append(field(name, Kind.HISTORY, shares=shares, max_length=history_length))
    return Schema(
        tuple(fields), labels, group="user", timestamp="time_ms", nested=Nested(nested, labels)
    )
