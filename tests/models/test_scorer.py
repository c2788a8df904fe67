"""A scorer in a file: every ctr and mtl model, its scores equal to the library's own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recsys.data.encode import FeaturePipeline
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.storage import DenseStorage
from recsys.errors import ConfigError
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec, SavedModel
from recsys.models.scorer import CARD, PROGRAM, Scorer, card, export_scorer, inputs_of
from tests import contract

LONGEST = 6
LISTS = ("tags.all", "seen", "places")
"""Columns of lists; the last two are histories of the same events."""


def frame(rows: int = 120, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)

    def lists(size: int, most: int) -> list[list[str]]:
        return [
            [f"{x}" for x in rng.integers(0, size, rng.integers(0, most + 1))] for _ in range(rows)
        ]

    click, seen = rng.integers(0, 2, rows), lists(12, LONGEST)
    return pl.DataFrame(
        {
            "user": rng.integers(0, 20, rows),
            "item": [f"{i}" for i in rng.integers(0, 12, rows)],
            "price": rng.normal(size=rows),
            "city": [None if i == 0 else f"c{i}" for i in rng.integers(0, 5, rows)],
            "tags.all": lists(7, 3),
            "seen": seen,
            "places": [[f"c{len(x) % 4}" for x in one] for one in seen],
            "click": click,
            "conversion": click * rng.integers(0, 2, rows),
            "like": rng.integers(0, 2, rows),
        },
        schema_overrides={name: pl.List(pl.String) for name in LISTS},
    )


def schema_of(family: str, histories: bool = True) -> Schema:
    fields = (
        Field(name="user", kind="categorical", encoding="vocabulary", dtype="int"),
        Field(name="item", kind="categorical", encoding="vocabulary"),
        Field(name="price", kind="numeric", encoding="standard", dtype="float"),
        Field(name="city", kind="categorical", encoding="vocabulary"),
        Field(name="tags.all", kind="multivalued", encoding="vocabulary", max_length=3),
        Field(
            name="seen", kind="history", encoding="vocabulary", shares="item", max_length=LONGEST
        ),
        Field(
            name="places", kind="history", encoding="vocabulary", shares="city", max_length=LONGEST
        ),
    )
    several = family == "mtl"
    return Schema(
        fields=fields if histories else fields[:4],
        labels=("click", "conversion", "like") if several else ("click",),
        nested={"conversion": "click"} if several else {},
    )


def saved_model(
    stem: str,
    embedding: EmbeddingOptions | None = None,
    histories: bool = True,
    options: dict[str, Any] | None = None,
) -> SavedModel:
    """A model that was never trained, with statistics and vectors that are none of the initial."""
    family = contract.family_of(stem)
    pipeline = FeaturePipeline.fit(Source.from_frame(frame()), schema_of(family, histories))
    chosen = {k: v for k, v in contract.options(stem).items() if k != "_target_"} | (options or {})
    spec = ModelSpec(family, contract.options(stem)["_target_"], chosen)
    torch.manual_seed(0)
    recommender = Recommender.build(
        pipeline.schema,
        embedding or EmbeddingOptions(dim=8, init_std=0.5),
        spec.make,
        DenseStorage,
        spec.pools_histories,
        spec.needs_fields,
        None,
        spec.separate_tables,
    )
    with torch.no_grad():
        for parameter in recommender.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
        recommender.lookup.storage.table()[0] = 0
    for module in recommender.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return SavedModel(recommender, pipeline, spec, {"run_id": "r1"})


def batches(saved: SavedModel) -> list[dict[str, Tensor]]:
    """One row and many; lists that are all empty; values nobody has seen, and none."""
    rows = frame(50, seed=1)
    empty = rows.with_columns(pl.lit([], pl.List(pl.String)).alias(n) for n in LISTS)
    odd = rows.with_columns(pl.lit("new").alias("item"), pl.lit(None, pl.Float64).alias("price"))
    tables = [rows, rows.head(1), rows.head(2), empty, empty.head(1), odd]
    return [inputs_of(saved.pipeline.transform(table)) for table in tables]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedModel, Path]:
    """One copy and its file: tracing takes seconds."""
    saved, folder = saved_model("din").with_tables("int8"), tmp_path_factory.mktemp("scorer")
    export_scorer(saved, folder)
    return saved, folder


def check_scores(saved: SavedModel, folder: Path) -> None:
    """What was written scores as the library does, on any batch."""
    program = torch.export.load(folder / PROGRAM).module()
    scorer = Scorer(saved.recommender)
    for inputs in batches(saved):
        found = program(inputs)
        with torch.no_grad():
            wanted = scorer(inputs)
        assert not found["logit"].requires_grad
        for name, values in wanted.items():
            torch.testing.assert_close(found[name], values, rtol=1e-5, atol=2e-6, msg=name)
    rows = frame(50, seed=1)
    np.testing.assert_allclose(
        scorer(batches(saved)[0])["probability"].detach().numpy(), saved.predict(rows), atol=2e-6
    )


def test_a_scorer_has_the_models_scores(exported: tuple[SavedModel, Path]) -> None:
    check_scores(*exported)


@pytest.mark.slow
@pytest.mark.parametrize("stem", [s for f in contract.FAMILIES for s in contract.stems(f)])
def test_every_model_can_be_exported(stem: str, tmp_path: Path) -> None:
    """No network of the library is refused; trees are."""
    saved = saved_model(stem)
    export_scorer(saved, tmp_path)
    check_scores(saved, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["din", "dien"])
def test_histories_that_are_read_together(stem: str, tmp_path: Path) -> None:
    saved = saved_model(stem, options={"joint": True})
    program = torch.export.load(export_scorer(saved, tmp_path)).module()
    check_scores(saved, tmp_path)
    inputs = batches(saved)[0]
    moved = broken(inputs, "places.lengths", lambda lengths: lengths.flip(0))
    with pytest.raises(RuntimeError, match="places and seen differ"):
        program(moved)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["hashed", "multiplexed", "unified"])
@pytest.mark.parametrize("tables", ["float32", "int4"])
def test_every_layout_can_be_exported(layout: str, tables: str, tmp_path: Path) -> None:
    lookups = 2 if layout == "unified" else 1
    options = EmbeddingOptions(layout=layout, dim=8, ratio=0.6, lookups=lookups, init_std=0.5)
    saved = saved_model("din", options)
    saved = saved if tables == "float32" else saved.with_tables(tables)
    export_scorer(saved, tmp_path)
    check_scores(saved, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("tables", ["float16", "int8", "int4"])
def test_a_copy_with_small_tables_is_exported_with_them(tables: str, tmp_path: Path) -> None:
    saved = saved_model("deepfm").with_tables(tables)
    export_scorer(saved, tmp_path)
    check_scores(saved, tmp_path)
    assert json.loads((tmp_path / CARD).read_text())["tables"] == tables


@pytest.mark.slow
def test_columns_of_ids_alone(tmp_path: Path) -> None:
    saved = saved_model("fm", EmbeddingOptions(dim=8, init_std=0.5), histories=False)
    program = torch.export.load(export_scorer(saved, tmp_path)).module()
    inputs = inputs_of(saved.pipeline.transform(frame(9)))
    assert set(inputs) == {"ids", "dense"}
    found = program(inputs)["probability"].detach().numpy()
    np.testing.assert_allclose(found, saved.predict(frame(9)), atol=2e-6)


def broken(inputs: dict[str, Tensor], name: str, change: Any) -> dict[str, Tensor]:
    found = {key: value.clone() for key, value in inputs.items()}
    found[name] = change(found[name])
    return found


def test_what_does_not_fit_is_refused_by_the_file_too(exported: tuple[SavedModel, Path]) -> None:
    """A code of a neighbouring table would otherwise be somebody else's vector."""
    saved, folder = exported
    program = torch.export.load(folder / PROGRAM).module()
    inputs = batches(saved)[0]
    size = saved.pipeline.schema["city"].size or 0

    def one(at: tuple[int, ...], value: int) -> Any:
        def change(tensor: Tensor) -> Tensor:
            tensor[at] = value
            return tensor

        return change

    wrong = {
        "ids is outside": [broken(inputs, "ids", one((3, 2), bad)) for bad in (size, -1)],
        "outside its table": [broken(inputs, "seen.values", one((0,), bad)) for bad in (99, -1)],
        "do not add up": [
            broken(inputs, "tags.all.lengths", lambda t: t + 1),
            broken(inputs, "seen.values", lambda t: t[:-1]),
        ],
    }
    for scorer in (program, Scorer(saved.recommender)):
        scorer(inputs)
        for message, cases in wrong.items():
            for case in cases:
                with pytest.raises(RuntimeError, match=message):
                    scorer(case)
    long = saved.pipeline.transform(frame(2))
    values = np.full(LONGEST + 1, 3, long.ids.dtype)
    long.ragged["seen"] = (values, np.array([0, LONGEST + 1, LONGEST + 1]))
    with pytest.raises(RuntimeError, match=f"more than {LONGEST} values"):
        program(inputs_of(long))


def test_the_card_names_what_goes_in_and_comes_out() -> None:
    saved = saved_model("esmm")
    found = card(saved)
    inputs = inputs_of(saved.pipeline.transform(frame(4)))
    assert list(found["inputs"]) == list(inputs)
    for name, about in found["inputs"].items():
        assert str(inputs[name].dtype) == f"torch.{about['dtype']}"
        assert len(about["shape"]) == inputs[name].dim()
        if isinstance(about["shape"][-1], int):
            assert inputs[name].shape[-1] == about["shape"][-1] == len(about["columns"])
    assert found["inputs"]["ids"]["columns"][0] == {"name": "user", "codes": 23}
    assert found["inputs"]["seen.values"]["codes"] == saved.pipeline.schema["item"].size
    assert found["inputs"]["seen.lengths"]["most"] == LONGEST
    assert found["outputs"]["probability"]["labels"] == ["click", "conversion", "like"]
    assert found["outputs"]["probability"]["shape"] == ["rows", 3]
    assert found["codes"]["first of the vocabulary"] == 3


def test_the_file_needs_torch_alone_and_names_no_place(
    exported: tuple[SavedModel, Path], tmp_path: Path
) -> None:
    """In a process that cannot import this library, nor fbgemm."""
    saved, folder = exported
    (tmp_path / PROGRAM).write_bytes((folder / PROGRAM).read_bytes())
    torch.save(batches(saved)[0], tmp_path / "inputs.pt")
    code = """
        import sys
        class Nothing:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("recsys", "fbgemm_gpu", "torchrec"):
                    raise ImportError(name)
        sys.meta_path.insert(0, Nothing())
        import torch
        program = torch.export.load("scorer.pt2").module()
        torch.save(program(torch.load("inputs.pt"))["probability"], "found.pt")
    """
    command = [sys.executable, "-I", "-c", textwrap.dedent(code)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    found = torch.load(tmp_path / "found.pt").numpy()
    np.testing.assert_allclose(found, saved.predict(frame(50, seed=1)), atol=2e-6)
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / PROGRAM).read_bytes()


def test_trees_are_refused(tmp_path: Path) -> None:
    saved = saved_model("lr")
    saved.model = object()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="made of trees"):
        export_scorer(saved, tmp_path)


def test_a_model_that_torch_cannot_trace_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = saved_model("lr")

    def forward(embedded: Any) -> Tensor:
        return embedded.linear.sum(1) if embedded.linear.sum() > 0 else embedded.linear.mean(1)

    monkeypatch.setattr(saved.recommender.model, "forward", forward)
    with pytest.raises(ConfigError, match=r"LR cannot be exported by torch: .*program=false"):
        export_scorer(saved, tmp_path)
    assert saved.recommender.lookup.numeric.requires_grad
    assert not (tmp_path / PROGRAM).exists()
