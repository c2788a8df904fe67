"""The logged model: MLflow runs this file to make it, so that no object is ever unpickled.

`mlflow.pyfunc.load_model(uri).predict(frame)` and `mlflow models serve` take RAW columns: the
feature pipeline travels inside.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from recsys.models.saved import SavedModel


class RecommenderModel(mlflow.pyfunc.PythonModel):
    """Raw columns in, one probability per row and label out."""

    def load_context(self, context: Any) -> None:
        """Load the folder that was logged as the artifact `model`."""
        self.saved = SavedModel.load(Path(context.artifacts["model"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score rows; the columns that `SavedModel.named` names are float32."""
        return pd.DataFrame(self.saved.named(self.saved.predict(model_input)))


mlflow.models.set_model(RecommenderModel())
