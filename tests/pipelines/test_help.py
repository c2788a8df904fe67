"""Every pipeline's `--help` has examples and answers at once: nothing heavy is imported for it."""

import importlib
import json
import subprocess
import sys

import pytest

from recsys import config
from tests.pipelines.conftest import ROOT

NAMES = [*sorted(path.stem for path in config.CONFIGS.glob("*.yaml")), "doctor", "ray_launch"]
HEAVY = ("torch", "mlflow", "polars", "pyarrow", "pandas", "numpy", "matplotlib", "lightgbm")


def test_nothing_heavy_is_imported() -> None:
    """Measured by what is imported, not by time: Hydra alone takes 0.4 s of a processor."""
    program = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {NAMES}:\n"
        "    importlib.import_module(f'pipelines.{name}')\n"
        f"    found[name] = [one for one in {HEAVY} if one in sys.modules]\n"
        "    for one in found[name]:\n"
        "        del sys.modules[one]\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {name: [] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_it_has_examples(name: str) -> None:
    doc = importlib.import_module(f"pipelines.{name}").__doc__ or ""
    assert f"python -m pipelines.{name}" in doc
