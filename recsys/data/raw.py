"""A raw data set: files, schema and split rule, before anything is fitted or encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recsys.data.readers import Source
from recsys.data.schema import Schema
from recsys.data.split import SPLITS, LeaveLastOut, RandomSplit, SplitRule, TimeSplit
from recsys.errors import SchemaError

__all__ = ["LeaveLastOut", "RandomSplit", "RawDataset", "SplitRule", "TimeSplit"]


@dataclass(frozen=True)
class RawDataset:
    """What a recipe returns: where the rows are, what the columns mean, and how rows are split.

    Args:
        name: Short name of the data set, used for folders and runs.
        files: `{"train": ..., "val": ..., "test": ...}`, where val and test may be absent, or
            `{"all": ...}` to be split by `split`. With `train`, `split` may carve the splits that
            are absent out of the training rows.
        schema: Unfitted: fields, labels, weight, group, timestamp.
        split: Rule for the rows of `all` or `train`; `"options"` means the rule that `DataOptions`
            asks for, which is also what None means for `all`. None for `train` means that the
            splits are given as files.
        notes: Sentences printed with every run.
        bayes: Metrics of the true probabilities on the test rows (synthetic data only).
    """

    name: str
    files: dict[str, Source]
    schema: Schema
    split: SplitRule | Literal["options"] | None = None
    notes: tuple[str, ...] = ()
    bayes: dict[str, float] | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.files) - {"all", *SPLITS})
        if unknown or not ({"all", "train"} & set(self.files)):
            raise SchemaError(
                f'data set "{self.name}" has the parts {", ".join(self.files) or "none"}; '
                "give either `all`, or `train` with optional `val` and `test`."
            )
        if "all" in self.files and len(self.files) > 1:
            raise SchemaError(
                f'data set "{self.name}" has `all` beside {", ".join(sorted(self.files))}; '
                "give one table to be split, or one per split."
            )
