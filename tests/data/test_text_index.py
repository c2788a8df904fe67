"""Both indexes of texts number alike, whatever the array's type, slices and nulls."""

import threading

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data import text_index
from recsys.data.text_index import NativeIndex, PolarsIndex, TextIndex, make_text_index

KINDS = ["native", "polars"]


def make(kind: str) -> TextIndex:
    if kind == "polars":
        return PolarsIndex()
    library = text_index._library()
    if library is None:
        pytest.skip("no C++ compiler on this machine")
    return NativeIndex(library)


def reference(texts: list[str | None]) -> list[int]:
    seen: dict[str, int] = {}
    return [-1 if t is None else seen.setdefault(t, len(seen)) for t in texts]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(texts=st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=80))
def test_numbers_go_by_first_sight(kind: str, texts: list[str | None]) -> None:
    index = make(kind)
    assert index.numbers(pa.array(texts, pa.string())).tolist() == reference(texts)
    distinct = list(dict.fromkeys(t for t in texts if t is not None))
    assert len(index) == len(distinct)
    assert index.texts(np.arange(len(distinct))).to_list() == distinct


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_any_text_type_slice_and_null(kind: str, type_: pa.DataType) -> None:
    texts = ["a", None, "", "long enough to need three words", "a", "é", None, "b" * 8, ""]
    index = make(kind)
    whole = pa.array([None, "x", *texts, "y"], type_)
    assert index.numbers(whole.slice(2, len(texts))).tolist() == reference(texts)
    assert index.numbers(pa.array([], type_)).tolist() == []
    assert index.numbers(pa.array(["", "é", "new"], type_)).tolist() == [1, 3, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_growth_keeps_every_number(kind: str) -> None:
    index = make(kind)
    texts = pa.array([str(i * 7919) for i in range(50_000)])
    first = index.numbers(texts)
    assert first.tolist() == list(range(50_000))
    assert np.array_equal(index.numbers(texts), first)
    chosen = np.array([49_999, 0, 17])
    assert index.texts(chosen).to_list() == [str(i * 7919) for i in chosen]


@pytest.mark.parametrize("kind", KINDS)
def test_threads_agree_on_numbers(kind: str) -> None:
    index, found = make(kind), {}
    texts = pa.array([f"v{i % 997}" for i in range(20_000)])

    def work(name: int) -> None:
        found[name] = index.numbers(texts)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(index) == 997
    for numbers in found.values():
        assert np.array_equal(numbers, found[0])


def test_without_a_compiler_polars_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_index, "_library", lambda: None)
    assert isinstance(make_text_index(), PolarsIndex)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(
    known=st.lists(st.text(max_size=20), max_size=40, unique=True),
    asked=st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=40),
)
def test_fixed_texts_are_found_and_nothing_is_added(
    kind: str, known: list[str], asked: list[str | None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if kind == "polars":
            patch.setattr(text_index, "_library", lambda: None)
        index = text_index.fixed_index(pl.Series(known, dtype=pl.String))
    wanted = [*asked, *known]
    expected = [known.index(one) if one in known else -1 for one in wanted]
    for _ in range(2):
        assert index.find(pa.array(wanted, pa.string())).tolist() == expected
    assert index.find(pa.array(wanted, pa.large_string())[1:]).tolist() == expected[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_texts_are_distinct(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "polars":
        monkeypatch.setattr(text_index, "_library", lambda: None)
    with pytest.raises(ValueError, match="twice"):
        text_index.fixed_index(pl.Series(["a", "b", "a"]))
