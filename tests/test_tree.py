"""The tree keeps its shape: imports run one way, tests mirror the package, one stem per model."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "recsys/*.py", "pipelines/*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()
]  # fmt: skip

ONE_WAY = ["data", "embedding", "layers", "models", "training"]
ONLY_IN = {
    "hydra": ["config.py"],
    "omegaconf": ["config.py"],
    "mlflow": ["tracking"],
    "torchrec": ["embedding", "environment.py"],
    "fbgemm_gpu": ["embedding", "environment.py"],
    "faiss": ["retrieval"],
    "optuna": ["tuning"],
    "ray": ["ray_cluster.py"],
}


@pytest.mark.parametrize("path", sorted((ROOT / "recsys").rglob("*.py")), ids=str)
def test_imports_run_one_way(path: Path) -> None:
    """A model file stays plain torch, and each heavy dependency lives in one place."""
    place = path.relative_to(ROOT / "recsys").parts[0]
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            top, _, rest = name.partition(".")
            assert place in ONLY_IN.get(top, [place]), f"{path.name} imports {name}"
            assert top != "pipelines", f"{path.name} imports {name}"
            part = rest.partition(".")[0]
            if top == "recsys" and place in ONE_WAY and part in ONE_WAY:
                assert ONE_WAY.index(part) <= ONE_WAY.index(place), f"{path.name} imports {name}"
            if place == "metrics":
                allowed = ("recsys.metrics", "recsys.errors", "recsys.native")
                assert top != "recsys" or name.startswith(allowed), f"{path.name}: {name}"


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"], ids=str)
def test_every_module_has_its_test(path: Path) -> None:
    relative = path.relative_to(ROOT)
    parts = relative.parts[1:] if relative.parts[0] == "recsys" else relative.parts
    expected = ROOT.joinpath("tests", *parts[:-1], f"test_{parts[-1]}")
    assert expected.is_file(), f"{relative} has no {expected.relative_to(ROOT)}"


def test_one_stem_per_model() -> None:
    readme = (ROOT / "README.md").read_text()
    for family in ("ctr", "cf", "mtl", "towers"):
        for config in (ROOT / "configs" / family).glob("*.yaml"):
            stem = config.stem
            assert (ROOT / f"recsys/models/{family}" / f"{stem}.py").is_file()
            assert (ROOT / f"tests/models/{family}" / f"test_{stem}.py").is_file()
            assert f"`{family}={stem}`" in readme


def test_the_top_level_is_fixed() -> None:
    import subprocess

    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = {name.split("/")[0] for name in listed if "/" in name}
    allowed = {"recsys", "pipelines", "configs", "tests", "notebooks", "data", ".ci"}
    assert folders <= allowed
