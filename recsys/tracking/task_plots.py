"""Figures about tasks that are learned together.

Letters   K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from recsys.tracking.figures import Columns, Subject, new_figure


def task_cosines(
    subject: Subject, tasks: Sequence[str], cosines: Mapping[str, np.ndarray]
) -> tuple[Figure, Columns]:
    """Cosine of every two tasks' gradients, one panel for each kind of shared numbers.

    Args:
        subject: Model, data set and number of rows.
        tasks: K names.
        cosines: What is shared -> [K, K]; NaN where two tasks share nothing, left white.
    """
    side = float(np.clip(0.55 * len(tasks), 2.2, 6.0))
    figure, axes = new_figure(
        f"Do tasks agree? Cosine of their gradients\n{subject}",
        columns=len(cosines),
        size=(len(cosines) * side + 3.0, side + 1.9),
        frame=True,
    )
    for index, (axis, (shared, values)) in enumerate(zip(axes, cosines.items(), strict=True)):
        if values.shape != (len(tasks), len(tasks)):
            raise ValueError(
                f"cosines of {shared} are {list(values.shape)} but there are {len(tasks)} tasks; "
                "they must be [tasks, tasks]."
            )
        image = axis.imshow(values, cmap="RdBu", vmin=-1.0, vmax=1.0, interpolation="nearest")
        for row, column in np.argwhere(np.isfinite(values)):
            value = float(values[row, column])
            axis.text(
                column, row, f"{value + 0.0:.2f}", ha="center", va="center", fontsize=7,
                color="white" if abs(value) > 0.7 else "black",
            )  # fmt: skip
        axis.set_title(f"towards {shared}", fontsize=9)
        axis.set_xticks(range(len(tasks)), tasks, rotation=90)
        axis.set_yticks(range(len(tasks)), tasks if index == 0 else [""] * len(tasks))
        axis.tick_params(labelsize=8, length=0)
        axis.grid(visible=False)
    figure.colorbar(image, ax=axes, label="cosine", fraction=0.04, pad=0.02)
    first, second = np.indices((len(tasks), len(tasks))).reshape(2, -1)
    return figure, {
        "task": [tasks[at] for at in first],
        "other": [tasks[at] for at in second],
        **{f"cosine_{name.replace(' ', '_')}": v.reshape(-1) for name, v in cosines.items()},
    }
