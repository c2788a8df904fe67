"""Reading new rows by a pipeline that was fitted on earlier ones: a day's rows by yesterday's.

Nothing is learnt: values that the earlier training rows did not have are UNSEEN, scales and bucket
edges stay. What the rows say of themselves (which columns are empty, whether a label is there) is
checked as for rows that are fitted on.
"""

from __future__ import annotations

import dataclasses

from recsys.data.columns import Coder, unfitted_coder
from recsys.data.encode import FeaturePipeline
from recsys.data.fit import Finish, Fitter
from recsys.data.schema import Field, Kind, Schema
from recsys.errors import SchemaError


class FittedReader(Fitter):
    """A `Fitter` that was finished before it began.

    Args:
        schema: Of the new rows, unfitted.
        pipeline: Fitted on earlier rows.

    Raises:
        SchemaError: the columns are not those that the pipeline was fitted on.
    """

    def __init__(self, schema: Schema, pipeline: FeaturePipeline) -> None:
        unsized = (dataclasses.replace(one, size=None) for one in pipeline.schema)
        difference = pipeline.schema.replace(unsized).diff(schema)
        if difference:
            raise SchemaError(
                "these columns are not those of the run to go on from (- then, + now):\n"
                f"{difference}\nUse the data options of that run."
            )
        self.pipeline = pipeline
        super().__init__(schema, pipeline.nan_as_missing)

    def _coder(self, one: Field) -> Coder | None:
        if one.kind is Kind.NUMERIC:
            return None
        owner = self.schema[one.shares] if one.shares else one
        return unfitted_coder(owner) or self.pipeline.vocabularies[owner.name]

    def finish(self) -> Finish:
        """The pipeline as it was given, and what was missing in the new rows.

        Raises:
            SchemaError: There was no training row, or a column or a label has no value in any.
        """
        found = super().finish()
        return Finish(self.pipeline, {}, found.missing)
