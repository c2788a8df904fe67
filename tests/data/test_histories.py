"""Histories: equal to a slow loop, and blind to everything at or after a row's own time."""

import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.histories import add_histories, windows, with_histories
from recsys.data.readers import Source
from recsys.errors import ConfigError, SchemaError


def log(rows: int = 400, seed: int = 0) -> pl.DataFrame:
    """Few users and few times, so that ties, first rows and users of one row abound."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user": [*rng.integers(0, 12, rows - 1), 999],
            "item": [f"i{k}" if k else None for k in rng.integers(0, 40, rows)],
            "price": rng.integers(0, 1000, rows) * 0.5,
            "at": rng.integers(0, 60, rows),
            "label": rng.integers(0, 2, rows),
        }
    )


def slow(frame: pl.DataFrame, column: str, max_length: int, positive: bool) -> list[list]:
    rows = frame.with_row_index("row").rows(named=True)
    out = []
    for row in rows:
        seen = [
            other
            for other in rows
            if other["user"] is not None
            and other["user"] == row["user"]
            and other["at"] < row["at"]
            and (other["label"] == 1 or not positive)
        ]
        seen.sort(key=lambda other: (other["at"], other["row"]))
        out.append([other[column] for other in seen][-max_length:])
    return out


def fast(frame: pl.DataFrame, max_length: int = 7, positive: bool = False) -> pl.DataFrame:
    return with_histories(
        frame,
        {"seen": "item", "paid": "price"},
        user="user",
        time="at",
        max_length=max_length,
        where=pl.col("label") == 1 if positive else None,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("max_length", "positive"), [(1, False), (7, False), (7, True), (999, True)]
)
def test_it_equals_a_slow_loop(seed: int, max_length: int, positive: bool) -> None:
    frame = log(seed=seed)
    found = fast(frame, max_length, positive)
    assert found.drop("seen", "paid").equals(frame)  # rows stay where they are
    assert found["seen"].to_list() == slow(frame, "item", max_length, positive)
    assert found["paid"].to_list() == slow(frame, "price", max_length, positive)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_at_or_after_its_time_changes_the_history_of_a_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame, other = log(60, seed), log(60, seed + 1000)
    before = fast(frame, 5, positive=True)["seen"].to_list()
    changes = 0
    for row, moment in enumerate(frame["at"]):
        # Every row from that moment on gets another user, value, label and time; the row itself
        # keeps its user and time, which say whose history it has and up to when.
        at = np.where(frame["at"] < moment, frame["at"], moment + rng.integers(0, 9, 60))
        at[row] = moment
        late = pl.Series(frame["at"] >= moment)
        changed = pl.select(
            user=pl.when(late & (pl.int_range(60) != row))
            .then(other["user"])
            .otherwise(frame["user"]),
            item=pl.when(late).then(other["item"]).otherwise(frame["item"]),
            price=pl.lit(frame["price"]),
            at=pl.lit(pl.Series(at)),
            label=pl.when(late).then(1 - frame["label"]).otherwise(frame["label"]),
        )
        after = fast(changed, 5, positive=True)["seen"].to_list()
        assert after[row] == before[row]
        changes += after != before
    assert changes > 50  # the changes do reach the histories of later rows


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_rows_with_different_times_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = log(300, seed).with_columns(at=pl.Series(rng.permutation(300)))
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=seed)
    a, b = fast(frame).sort("at"), fast(shuffled).sort("at")
    assert a["seen"].to_list() == b["seen"].to_list()


def test_every_kind_of_user_and_time() -> None:
    frame = log(200)
    expected = fast(frame)["seen"].to_list()
    start = datetime.datetime(2024, 1, 1)
    for users in (
        pl.col("user").cast(pl.String),
        pl.col("user").cast(pl.String).cast(pl.Categorical),
    ):
        for times in (
            pl.col("at").cast(pl.Float64) / 7,
            pl.col("at") - 10**15,
            pl.lit(start) + pl.duration(days=pl.col("at")),
            (pl.lit(start) + pl.duration(days=pl.col("at"))).cast(pl.Date),
        ):
            assert fast(frame.with_columns(user=users, at=times))["seen"].to_list() == expected


def test_rows_without_a_user_see_nothing_and_are_not_seen() -> None:
    frame = log(200).with_columns(user=pl.when(pl.col("user") < 4).then(None).otherwise("user"))
    found = fast(frame)
    assert found["seen"].to_list() == slow(frame, "item", 7, positive=False)
    assert found.filter(pl.col("user").is_null())["seen"].list.len().sum() == 0


def test_an_event_condition_that_is_null_is_no_event() -> None:
    frame = pl.DataFrame(
        {"user": [1, 1, 1], "item": ["a", "b", "c"], "at": [1, 2, 3], "label": [1, None, 1]}
    )
    assert with_histories(
        frame, {"h": "item"}, user="user", time="at", where=pl.col("label") == 1
    )["h"].to_list() == [[], ["a"], ["a"]]  # fmt: skip


def test_one_row() -> None:
    frame = pl.DataFrame({"user": [1], "item": ["a"], "at": [1]})
    found = with_histories(frame, {"h": "item"}, user="user", time="at")
    assert found["h"].to_list() == [[]]
    assert found.schema["h"] == pl.List(pl.String)


def test_windows_of_a_part_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    found = windows(rng.integers(0, 5, 90), rng.integers(0, 20, 90), 6)
    whole, offsets = found.positions(0, 90), found.offsets(0, 90)
    for first, stop in ((0, 1), (13, 40), (89, 90), (50, 50)):
        np.testing.assert_array_equal(
            found.positions(first, stop), whole[offsets[first] : offsets[stop]]
        )
        np.testing.assert_array_equal(
            found.offsets(first, stop), offsets[first : stop + 1] - offsets[first]
        )


def test_bad_input() -> None:
    frame = log(50)
    with pytest.raises(SchemaError, match=r'no column "usr".*Did you mean user'):
        with_histories(frame, {"h": "item"}, user="usr", time="at")
    with pytest.raises(SchemaError, match=r'no column "itm"'):
        with_histories(frame, {"h": "itm"}, user="user", time="at")
    with pytest.raises(SchemaError, match=r'time column "item" holds string'):
        with_histories(frame, {"h": "price"}, user="user", time="item")
    holes = frame.with_columns(at=pl.when(pl.int_range(50) == 17).then(None).otherwise("at"))
    with pytest.raises(SchemaError, match=r'time column "at" is missing in <frame> row 17'):
        with_histories(holes, {"h": "item"}, user="user", time="at")
    with pytest.raises(ConfigError, match="at most 0 events"):
        with_histories(frame, {"h": "item"}, user="user", time="at", max_length=0)


# --- sources ----------------------------------------------------------------------------------

COLUMNS = {"seen": "item", "paid": "price"}


def parts(folder: Path, frame: pl.DataFrame) -> dict[str, Source]:
    """Training rows in two files of small row groups, test rows in memory."""
    frame[:150].write_parquet(folder / "a.parquet", row_group_size=20)
    frame[150:170].write_ipc(folder / "b.arrow")
    files = [folder / "a.parquet", folder / "b.arrow"]
    return {"train": Source.open(files), "test": Source.from_frame(frame[170:])}


def read(sources: dict[str, Source], columns: list[str], rows: int) -> list[dict]:
    return [
        row
        for source in sources.values()
        for batch in source.batches(columns, rows)
        for row in batch.table.to_pylist()
    ]


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("rows", [7, 50, 10_000])
def test_sources_are_one_log(tmp_path: Path, positive: bool, rows: int) -> None:
    frame = log(240).with_columns(item=pl.col("item").cast(pl.Categorical))
    found = add_histories(
        parts(tmp_path, frame), COLUMNS, user="user", time="at", max_length=7,
        positive="label" if positive else None,
    )  # fmt: skip
    expected = fast(frame, 7, positive).to_dicts()
    names = ["user", "item", "price", "at", "label", "seen", "paid"]
    assert list(found["train"].columns) == names
    assert str(found["test"].columns["seen"]) == "list<item: string>"
    assert read(found, names, rows) == expected
    only = [{"paid": row["paid"]} for row in expected]
    assert read(found, ["paid"], rows) == only


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    sources = parts(tmp_path, log(240))
    found = add_histories(sources, COLUMNS, user="user", time="at")
    (tmp_path / "a.parquet").write_bytes(b"")
    assert found["train"].num_rows == 170
    assert len(read({"test": found["test"]}, ["item"], 9)) == 70
    with pytest.raises((SchemaError, OSError)):
        read({"test": found["test"]}, ["seen"], 9)


def test_values_of_other_types(tmp_path: Path) -> None:
    frame = log(240).with_columns(
        day=pl.date(2024, 1, 1) + pl.duration(days=pl.col("at")),
        number=pl.when(pl.col("at") > 9).then(pl.col("at").cast(pl.UInt16)),
        flag=pl.col("label") == 1,
        nothing=pl.lit(None, pl.String),
    )
    columns = {f"{name}_before": name for name in ("day", "number", "flag", "nothing")}
    found = add_histories(parts(tmp_path, frame), columns, user="user", time="at")
    expected = with_histories(frame, columns, user="user", time="at").to_dicts()
    assert read(found, list(expected[0]), 33) == expected


def test_the_digest_follows_what_the_lists_depend_on(tmp_path: Path) -> None:
    sources = parts(tmp_path, log(240))

    def digest(**keys: object) -> str:
        return add_histories(
            sources, **({"columns": COLUMNS, "user": "user", "time": "at"} | keys)
        )["train"].digest()

    changes = [
        {"max_length": 9}, {"positive": "label"}, {"user": "item"}, {"time": "price"},
        {"columns": {"seen": "price", "paid": "item"}},
    ]  # fmt: skip
    assert digest() == digest()
    assert len({digest(), *(digest(**change) for change in changes)}) == 1 + len(changes)


def test_bad_sources(tmp_path: Path) -> None:
    frame = log(240).with_columns(tags=pl.lit(["a"]), seen_before=pl.lit(["a"]))
    sources = parts(tmp_path, frame)

    def add(columns: dict[str, str], **keys: str) -> dict[str, Source]:
        return add_histories(sources, columns, **({"user": "user", "time": "at"} | keys))

    with pytest.raises(SchemaError, match=r'no column "itm".*Did you mean item'):
        add({"seen": "itm"})
    with pytest.raises(SchemaError, match=r'no column "usr"'):
        add({"seen": "item"}, user="usr")
    with pytest.raises(SchemaError, match=r'no column "lable".*Did you mean label'):
        add({"seen": "item"}, positive="lable")
    with pytest.raises(SchemaError, match=r'"seen_before" has the name of a column.*kind=history'):
        add({"seen_before": "item"})
    with pytest.raises(SchemaError, match=r'"seen" of "tags" cannot be made.*list<item: string>'):
        add({"seen": "tags"})
    holes = frame.with_columns(at=pl.when(pl.int_range(240) == 155).then(None).otherwise("at"))
    sources = parts(tmp_path, holes)
    with pytest.raises(SchemaError, match=r'column "at" is missing in .*b\.arrow row 5 .*Remove'):
        read(add({"seen": "item"}), ["seen"], 9)
