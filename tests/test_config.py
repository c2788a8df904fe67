"""Configuration: every file composes, every mistake is answered with the nearest right key."""

import ast
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from recsys import config
from recsys.data.options import DataOptions
from recsys.embedding.lookup import EmbeddingOptions
from recsys.errors import ConfigError
from recsys.models.registry import call, import_target
from recsys.training.loop import TrainerOptions
from recsys.training.optimizers import OptimizerOptions

ROOT = Path(__file__).parents[1]
GROUPS = [
    (folder.name, option)
    for folder in sorted((ROOT / "configs").iterdir())
    if folder.is_dir() and folder.name not in ("hydra", "experiment")
    for option in config.options(folder.name)
]


@pytest.mark.parametrize(("group", "option"), GROUPS)
def test_every_option_composes(group: str, option: str) -> None:
    cfg = config.compose("train", [f"{group}={option}"])
    assert cfg[group] is not None


@pytest.mark.parametrize("name", config.options("experiment"))
def test_every_experiment_composes_and_names_its_model(name: str) -> None:
    cfg = config.compose("train", [f"experiment={name}"])
    _, stem = config.chosen_model(cfg)
    data, _, rest = name.partition("_")
    assert rest.split("_")[0] == stem
    assert data in str(cfg.data._target_)


@pytest.mark.parametrize(
    ("group", "cls"),
    [
        ("embedding", EmbeddingOptions),
        ("optimizer", OptimizerOptions),
        ("trainer", TrainerOptions),
    ],
)
def test_every_choice_builds_its_options(group: str, cls: type) -> None:
    for option in config.options(group):
        cfg = config.compose("train", [f"{group}={option}"])
        config.build_options(cls, cfg[group], group)


def test_every_data_key_is_an_option_of_the_recipe_or_common() -> None:
    import inspect

    for option in config.options("data"):
        node = config.plain(config.compose("train", [f"data={option}"]).data)
        recipe = inspect.signature(import_target(node.pop("_target_"))).parameters
        common = set(DataOptions.__dataclass_fields__)
        assert not set(recipe) & common, option
        assert set(node) == set(recipe) | common, option


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_yaml_says_what_it_is_and_explains_its_keys(path: Path) -> None:
    lines = path.read_text().splitlines()
    if "hydra" in path.parts:
        return
    first = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert first.startswith("# ")
    if path.parent.name == "experiment" or path.parent == ROOT / "configs":
        return
    for line in lines:
        key = re.match(r"(\w+):", line)
        if key and key.group(1) not in ("_target_", "defaults"):
            inherits = path.stem in ("debug", "overfit")
            assert "#" in line or inherits, f"{path.name}: {line}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ctr=autoint", "ctr.num_head=4"], r"ctr\.num_head is not.*Did you mean ctr\.num_heads"),
        (["ctr=autint"], r"ctr=autint.*Did you mean autoint"),
        (["ctr=autoint", "optimiser.lr=1"], r"Did you mean optimizer"),
        (["optimizer.lr.x=1"], r"optimizer\.lr\.x is not an option"),
        (["ctr.num_heads=4"], r"no ctr was chosen"),
        (["data=parqet"], r"Did you mean parquet"),
        (["ctr=autoint", "a b"], r'cannot read "a b"'),
        (["trainer=fast"], r"Allowed: debug, default, overfit"),
    ],
)
def test_mistakes_name_the_nearest(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.compose("train", overrides)


def test_added_keys_are_refused_by_the_constructor() -> None:
    cfg = config.compose("train", ["ctr=autoint", "+trainer.epoch=3"])
    with pytest.raises(ConfigError, match=r"Did you mean trainer\.epochs"):
        config.build_options(TrainerOptions, cfg.trainer, "trainer")


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("epochs", "ten", "int"),
        ("epochs", 1.5, "int"),
        ("compile", 1, "bool"),
        ("device", 0, "str"),
    ],
)
def test_values_of_another_type_are_refused(key: str, value: object, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{key}=.*must be {kind}"):
        config.build_options(TrainerOptions, {key: value}, "trainer")


def test_column_names_are_free() -> None:
    cfg = config.compose("train", ["data=parquet", "data.fields.my_column.kind=ignore"])
    assert config.plain(cfg.data.fields) == {"my_column": {"kind": "ignore"}}


def test_exactly_one_model() -> None:
    with pytest.raises(ConfigError, match=r"got none(.|\n)*ctr: autoint dcnv2(.|\n)*Example"):
        config.chosen_model(config.compose("train", []))
    both = OmegaConf.create({"ctr": {"_target_": "a.b.C"}, "cf": {"_target_": "a.d.E"}})
    with pytest.raises(ConfigError, match="got ctr and cf"):
        config.chosen_model(both)
    cfg = config.compose("train", ["ctr=autoint"])
    assert config.chosen_model(cfg) == ("ctr", "autoint")


def test_identity_ignores_places_and_sees_settings() -> None:
    def identity(*overrides: str) -> str:
        return config.identity(config.compose("train", ["ctr=autoint", *overrides]))

    same = identity()
    assert identity("output_dir=x", "trainer.resume=auto", "tracking=none") == same
    assert identity("trainer.threads=1", "console=plain") == same
    assert identity("seed=1") != same
    assert identity("ctr.num_heads=4") != same


def test_targets_outside_the_library_are_refused() -> None:
    for target in ("os.system", "recsys.models.registry.importlib", "recsys.models.ctr.fm._x"):
        with pytest.raises(ConfigError):
            import_target(target)
    with pytest.raises(ConfigError, match="Did you mean FM"):
        import_target("recsys.models.ctr.fm.FMM")


def test_call_names_the_nearest_keyword() -> None:
    def build(size: int, *, depth: int = 1) -> int:
        return size * depth

    assert call(build, {"depth": 3}, {"size": 2}, "ctr") == 6
    with pytest.raises(ConfigError, match=r"ctr\.dept is not.*Did you mean ctr\.depth"):
        call(build, {"dept": 3}, {"size": 2}, "ctr")


ONE_WAY = ["data", "embedding", "layers", "models", "training"]
ONLY_IN = {
    "hydra": ["config.py"],
    "omegaconf": ["config.py"],
    "mlflow": ["tracking"],
    "torchrec": ["embedding", "environment.py"],
    "fbgemm_gpu": ["embedding", "environment.py"],
    "faiss": ["retrieval"],
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
                allowed = ("recsys.metrics", "recsys.errors")
                assert top != "recsys" or name.startswith(allowed), f"{path.name}: {name}"


def test_the_top_level_is_fixed() -> None:
    import subprocess

    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = {name.split("/")[0] for name in listed if "/" in name}
    allowed = {"recsys", "pipelines", "configs", "tests", "notebooks", "data", ".ci"}
    assert folders <= allowed
