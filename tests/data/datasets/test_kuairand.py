"""KuaiRand-Pure: counts, the split by time, and that no input knows what happened."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.datasets import kuairand
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.schema import Kind
from recsys.errors import ConfigError, SchemaError
from recsys.metrics.classification import auc

MAY_5, MAY_7 = kuairand.CUTS
LEAK = 0.70
"""AUC on test rows of the mean label per value of one column: above it, the column is suspect."""
ROWS = {"train": 167_055, "val": 26_640, "test": 28_749}
BEFORE = {
    "user_id", "video_id", "date", "hourmin", "time_ms", "duration_ms", "is_rand", "tab",
    "source_file", "author_id", "tag", "upload_dt", "upload_date", "video_duration",
    "freshness_days",
}  # fmt: skip
"""Columns of the log that are known before the exposure."""
POSITIVES = {
    "click": 100_008,
    "long_view": 70_484,
    "like": 3_872,
    "follow": 290,
    "comment": 574,
    "forward": 194,
    "profile_enter": 4_198,
}


def log(rows: list[tuple[int, int, int, int, int]]) -> pl.DataFrame:
    """User, video, time, click and like; every other outcome is 0."""
    names = ["user_id", "video_id", "time_ms", "is_click", "is_like"]
    frame = pl.DataFrame(rows, names, orient="row")
    zero = [c for c in kuairand.OUTCOMES if c not in names]
    return frame.with_columns(
        *(pl.lit(0).alias(c) for c in zero), tab=pl.lit(1), duration_ms=pl.col("video_id") * 1000
    )


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    first = [(1, 7, MAY_5 - 50, 1, 0), (1, 8, MAY_5 - 40, 0, 1), (2, 7, MAY_5 - 30, 1, 0)]
    last = [
        (1, 9, MAY_5, 1, 0),
        (1, 9, MAY_5, 1, 1),  # the same exposure again, with a like
        (1, 7, MAY_5, 0, 0),  # the same moment, another video
        (2, 8, MAY_7 - 1, 0, 0),
        (1, 8, MAY_7, 0, 0),
    ]
    log(first).write_parquet(tmp_path / "val.parquet")
    log(last).write_parquet(tmp_path / "test.parquet")
    columns = {name: [1, 2] for name in kuairand.USER_FIELDS.values()}
    columns |= {"user_active_degree": ["full_active", "UNKNOWN"], "is_live_streamer": [-124, 1]}
    columns |= {name: ["[1,10)", "0"] for name in columns if name.endswith("_range")}
    pl.DataFrame({"user_id": [1, 2], **columns}).write_csv(tmp_path / kuairand.USERS)
    pl.DataFrame(
        {
            "video_id": [7, 8, 9],
            "author_id": [70, 80, 80],
            "tag": ["3", "3,62", None],
            "video_type": ["NORMAL"] * 3,
            "upload_type": ["Web"] * 3,
            "upload_dt": ["2022-04-09"] * 3,
            "music_type": [4.0, None, 9.0],
        }
    ).write_csv(tmp_path / kuairand.VIDEOS)
    monkeypatch.setattr(kuairand, "NUM_LOGGED", {"val.parquet": 3, "test.parquet": 5})
    for name, count in (("NUM_EXPOSURES", 7), ("NUM_USERS", 2), ("NUM_VIDEOS", 3)):
        monkeypatch.setattr(kuairand, name, count)
    return tmp_path


def table(raw: kuairand.RawDataset) -> pl.DataFrame:
    return pl.DataFrame(raw.files["all"].head(10**6))


@lru_cache(1)
def everything(folder: Path) -> kuairand.RawDataset:
    """The real files with every label and every history."""
    return kuairand.build(source=folder, labels=list(POSITIVES), behaviours=list(POSITIVES))


def column_auc(frame: pl.DataFrame, column: pl.Expr, label: str) -> float:
    """How well one column alone ranks the test rows: its mean label in training, by value, and for
    numbers also by hundredth of the rows, as many a leak has a value of its own in every row."""
    frame = frame.select("time_ms", value=column, label=pl.col(label))
    views = [frame]
    if frame["value"].dtype.is_numeric():
        rank = pl.col("value").rank("min")
        views.append(frame.with_columns(value=rank * 100 // pl.len()))
    return max(_ranking_auc(view) for view in views)


def _ranking_auc(frame: pl.DataFrame) -> float:
    train = frame.filter(pl.col("time_ms") < MAY_5)
    prior = train["label"].mean()
    means = train.group_by("value").agg(score=(pl.col("label").sum() + 9 * prior) / (pl.len() + 9))
    test = frame.filter(pl.col("time_ms") >= MAY_7)
    test = test.join(means, on="value", how="left", nulls_equal=True)
    return float(auc(test["score"].fill_null(prior).to_numpy(), test["label"].to_numpy()))


def test_the_real_files(shared: Callable[[str], Path], tmp_path: Path) -> None:
    raw = everything(shared("kuairand-pure"))
    assert raw.schema.labels == tuple(POSITIVES)
    frame = table(raw)
    assert {label: int(frame[label].sum()) for label in POSITIVES} == POSITIVES
    assert frame["active_degree"].null_count() == 15  # every person is in the table
    data = prepare(raw, DataOptions(), tmp_path)
    assert {split: len(store) for split, store in data.stores.items()} == ROWS
    assert data.train.label.shape == (ROWS["train"], len(POSITIVES))
    without_click = [frame.filter(pl.col(n) == 1, click=0).height for n in POSITIVES]
    assert without_click == [0, 250, 691, 42, 15, 16, 278]  # so none is nested in it
    # Few persons forward anything, and their history is a field like the others.
    forwards = data.train.ragged["forward_history"][1]
    assert 0 < np.count_nonzero(np.diff(forwards)) < 0.01 * ROWS["train"]


def test_every_column_of_the_log_is_known_before_or_an_outcome(
    shared: Callable[[str], Path],
) -> None:
    for name in kuairand.LOGS:
        columns = set(pl.read_parquet_schema(shared("kuairand-pure") / name))
        assert columns - set(kuairand.OUTCOMES) == BEFORE
        assert columns >= set(kuairand.OUTCOMES)


def turned(read: Callable[..., pl.DataFrame]) -> Callable[..., pl.DataFrame]:
    """A reader of logs that tells the opposite of every outcome from 5 May on."""

    def outcome(name: str) -> pl.Expr:
        return 1 - pl.col(name) if name in kuairand.LABELS.values() else pl.lit(None)

    def read_parquet(file: Path) -> pl.DataFrame:
        late = pl.col("time_ms") >= MAY_5
        changed = [pl.when(late).then(outcome(n)).otherwise(n).alias(n) for n in kuairand.OUTCOMES]
        return read(file).with_columns(changed)

    return read_parquet


def test_outcomes_reach_later_histories_and_nothing_else(
    shared: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the outcomes of all validation and test rows turned, all inputs are what they were, but
    for the events of these days in histories."""
    keys = {"source": shared("kuairand-pure"), "labels": list(POSITIVES), "history_length": 10**6}
    raw = kuairand.build(**keys, behaviours=list(POSITIVES))
    before = table(raw)
    monkeypatch.setattr(pl, "read_parquet", turned(pl.read_parquet))
    after = table(kuairand.build(**keys, behaviours=list(POSITIVES)))
    early = pl.col("time_ms") < MAY_5
    assert after.filter(early).equals(before.filter(early))
    singles = [field.name for field in raw.schema if not field.is_ragged]
    assert after.select(singles).equals(before.select(singles))
    for label in POSITIVES:
        # An exposure that was logged twice may have a label before and after.
        assert (after[label] != before[label]).sum() > 0.99 * before.filter(~early).height
        before_may_5 = (early & (pl.col(label) == 1)).sum().over("user")
        for name in kuairand.histories(label):
            kept, now = (
                frame.with_columns(n=before_may_5).filter(~early).with_columns(
                    old=pl.col(name).list.head("n"), new=pl.col(name).list.slice("n")
                )
                for frame in (before, after)
            )  # fmt: skip
            assert now["old"].equals(kept["old"]), name
            assert not now["new"].equals(kept["new"]), name


def test_histories_hold_what_one_finds_by_looking_for_it(shared: Callable[[str], Path]) -> None:
    """Brute force: of the same person, with the label, at an earlier millisecond, oldest first."""
    raw = everything(shared("kuairand-pure"))
    frame = table(raw)
    logs: dict[int, list[dict[str, int]]] = {}
    names = ["user", "video", "author", "tag", "time_ms", *POSITIVES]
    for row in frame.select(names).iter_rows(named=True):
        logs.setdefault(row["user"], []).append(row)
    together = frame.select("user", "time_ms").is_duplicated()  # exposures of one millisecond
    assert together.sum() > 100
    chosen = together.arg_true().to_list()[:300]
    chosen += np.random.default_rng(0).choice(frame.height, 1500, replace=False).tolist()
    found = 0
    for row in frame[chosen].iter_rows(named=True):
        past = [one for one in logs[row["user"]] if one["time_ms"] < row["time_ms"]]
        past.sort(key=lambda one: one["time_ms"])
        for label in POSITIVES:
            events = [one for one in past if one[label] == 1][-raw.schema["history"].max_length :]
            for name, shares in kuairand.histories(label).items():
                assert row[name] == [one[shares] for one in events], name
            found += len(events)
    assert found > 5000


def test_no_input_knows_the_outcome(shared: Callable[[str], Path]) -> None:
    folder = shared("kuairand-pure")
    raw = kuairand.build(source=folder)
    assert not set(raw.schema.names) & {*kuairand.OUTCOMES, *kuairand.LABELS}
    assert set(raw.files["all"].columns) == {*raw.schema.names, "click", "time_ms"}
    frame = table(raw)
    for field in raw.schema:
        column = pl.col(field.name)
        looks = [column.list.last(), column.list.len()] if field.is_ragged else [column]
        for look in looks:
            assert column_auc(frame, look, "click") < LEAK, field.name
    # What the bound is worth: columns that leak are far above it. Those of rare outcomes (a like)
    # are not, and are known by their names alone.
    logs = pl.concat([pl.read_parquet(folder / name) for name in kuairand.LOGS])
    for name in ("play_time_ms", "watch_ratio", "long_view", "long_watch", "is_positive"):
        assert column_auc(logs, pl.col(name), "is_click") > LEAK + 0.1, name


def test_exposures_are_joined_once_and_histories_hold_earlier_clicks(small: Path) -> None:
    frame = table(kuairand.build(source=small, labels=["like", "click"]))
    rows = frame.select("user", "video", "click", "like", "history", "author_history").rows()
    assert rows == [
        (1, 7, 1, 0, [], []),
        (1, 8, 0, 1, [7], [70]),
        (2, 7, 1, 0, [], []),
        (1, 9, 1, 1, [7], [70]),
        (1, 7, 0, 0, [7], [70]),
        (2, 8, 0, 0, [7], [70]),
        (1, 8, 0, 0, [7, 9], [70, 80]),
    ]
    assert frame["tag_history"].to_list()[-1] == ["3", None]
    assert frame["tag"].to_list() == ["3", "3,62", "3", None, "3", "3,62", "3,62"]
    assert frame["live_streamer"].to_list() == [None, None, 1, None, None, 1, None]
    assert frame["active_degree"].to_list()[1:3] == ["full_active", None]
    assert frame["music_type"].to_list()[:2] == [4, None]
    assert frame["hour"].to_list() == [23, 23, 23, 0, 0, 23, 0]
    assert frame["duration"].to_list()[:2] == [7000, 8000]


def test_histories_by_behaviour(small: Path) -> None:
    raw = kuairand.build(source=small, labels=["click"], behaviours=["like", "forward"])
    assert [field.name for field in raw.schema.ragged] == ["like_history", "forward_history"]
    assert {field.shares for field in raw.schema.ragged} == {"video"}
    frame = table(raw)
    assert "like" not in frame.columns  # an outcome, and no label of this run
    # Exposures of one moment do not see each other; the like of a second copy counts.
    likes = [[], [], [], [8], [8], [], [8, 9]]
    assert frame["like_history"].to_list() == likes
    assert frame["forward_history"].to_list() == [[]] * 7
    both = table(kuairand.build(source=small, behaviours=["click", "like"]))
    clicks = table(kuairand.build(source=small))
    assert both["like_history"].to_list() == likes
    assert both.drop("like_history").equals(clicks)
    assert kuairand.build(source=small, behaviours=[]).schema.ragged == ()


def test_a_history_of_one_event_is_enough_and_of_none_is_named(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = log([(1, 7, MAY_5 - 20, 0, 0)])
    pl.concat([pl.read_parquet(small / "val.parquet"), later]).write_parquet(small / "val.parquet")
    monkeypatch.setattr(kuairand, "NUM_LOGGED", {"val.parquet": 4, "test.parquet": 5})
    monkeypatch.setattr(kuairand, "NUM_EXPOSURES", 8)
    keys = {"source": small, "behaviours": ["like"]}
    data = prepare(kuairand.build(**keys), DataOptions(), tmp_path / "prepared")
    assert np.diff(data.train.ragged["like_history"][1]).tolist() == [0, 0, 0, 1]
    assert data.pipeline.schema["like_history"].size == data.pipeline.schema["video"].size
    none = kuairand.build(**(keys | {"behaviours": ["follow"]}))
    with pytest.raises(SchemaError, match=r"follow_history.*follow_history\.kind=ignore"):
        prepare(none, DataOptions(), tmp_path / "prepared")


def test_encoded_inputs_do_not_depend_on_outcomes_to_come(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(name: str) -> dict[str, list[np.ndarray]]:
        data = prepare(kuairand.build(source=small), DataOptions(), tmp_path / name)
        return {
            split: [store.ids, store.dense, *(x for pair in store.ragged.values() for x in pair)]
            for split, store in data.stores.items()
        }

    before = prepared("before")
    monkeypatch.setattr(pl, "read_parquet", turned(pl.read_parquet))
    after = prepared("after")
    for split in ("train", "val"):  # no validation row lies after another
        for one, other in zip(before[split], after[split], strict=True):
            np.testing.assert_array_equal(one, other)
    for one, other in zip(before["test"][:2], after["test"][:2], strict=True):
        np.testing.assert_array_equal(one, other)
    # Its history held a click and now holds another: those rows come before it.
    assert before["test"][2].tolist() != after["test"][2].tolist()


def test_the_split_is_by_time_and_the_schema_shares_tables(small: Path, tmp_path: Path) -> None:
    raw = kuairand.build(source=small)
    assert raw.schema.labels == ("click",)
    for name, shares in kuairand.HISTORIES.items():
        assert raw.schema[name].kind is Kind.HISTORY
        assert raw.schema[name].shares == shares
    data = prepare(raw, DataOptions(), tmp_path / "prepared")
    rows = {split: np.asarray(store.row).tolist() for split, store in data.stores.items()}
    assert rows == {"train": [0, 1, 2], "val": [3, 4, 5], "test": [6]}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"labels": ["clik"]}, "Did you mean click"),
        ({"labels": []}, "one or more of click"),
        ({"labels": ["like"] * 2}, "each once"),
        ({"behaviours": ["lik"]}, r"data\.behaviours has lik.*Did you mean like"),
        ({"behaviours": ["like"] * 2}, r"data\.behaviours=.*each once"),
    ],
)
def test_other_labels_are_refused(small: Path, keys: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        kuairand.build(source=small, **keys)


def test_other_files_are_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"not downloaded. Put val\.parquet and test\.parquet"):
        kuairand.build()
    monkeypatch.setattr(kuairand, "NUM_EXPOSURES", 8)
    with pytest.raises(SchemaError, match="has 7 exposures, published are 8"):
        kuairand.build(source=small)
    monkeypatch.setattr(kuairand, "NUM_LOGGED", {"val.parquet": 3, "test.parquet": 6})
    with pytest.raises(SchemaError, match=r"has 5 rows in test\.parquet, published are 6"):
        kuairand.build(source=small)
    pl.DataFrame({"a": [1]}).write_parquet(small / "val.parquet")
    with pytest.raises(SchemaError, match=r"val\.parquet is not the log of KuaiRand-Pure"):
        kuairand.build(source=small)
    (small / kuairand.USERS).unlink()
    with pytest.raises(SchemaError, match=r"needs user_features_pure\.csv \(or \.gz\)"):
        kuairand.users(small)
