"""Configuration: every file composes, every mistake is answered with the nearest right key."""

import re
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from recsys import config
from recsys.data.options import DataOptions
from recsys.embedding.lookup import EmbeddingOptions
from recsys.errors import ConfigError
from recsys.models.registry import import_target
from recsys.training.optfs import GateOptions
from recsys.training.optimizers import OptimizerOptions
from recsys.training.options import TrainerOptions
from recsys.training.ranking_loop import RankingOptions

ROOT = Path(__file__).parents[1]
NOT_OF_TRAIN = {"retrieval": "build_index", "search": "tune"}
"""The pipeline of a group that training does not read."""
GROUPS = [
    (folder.name, option)
    for folder in sorted((ROOT / "configs").iterdir())
    if folder.is_dir() and folder.name not in ("hydra", "experiment")
    for option in config.options(folder.name)
]


@pytest.mark.parametrize(("group", "option"), GROUPS)
def test_every_option_composes(group: str, option: str) -> None:
    cfg = config.compose(NOT_OF_TRAIN.get(group, "train"), [f"{group}={option}"])
    assert cfg[group] is not None


@pytest.mark.parametrize("name", config.options("experiment"))
def test_every_experiment_composes_and_names_its_model(name: str) -> None:
    cfg = config.compose("train", [f"experiment={name}"])
    _, stem = config.chosen_model(cfg)
    sets = [one for one in config.options("data") if name.startswith(f"{one}_")]
    data = max(sets, key=len)  # synthetic_tasks_... is no experiment of synthetic
    assert name.removeprefix(f"{data}_").split("_")[0] == stem
    assert cfg.data._target_ == config.compose("train", [f"data={data}"]).data._target_


@pytest.mark.parametrize(
    ("group", "cls"),
    [
        ("embedding", EmbeddingOptions),
        ("gate", GateOptions),
        ("optimizer", OptimizerOptions),
        ("trainer", TrainerOptions),
    ],
)
def test_every_choice_builds_its_options(group: str, cls: type) -> None:
    for option in config.options(group):
        cfg = config.compose("train", [f"{group}={option}"])
        of_cf = (group, option) == ("trainer", "ranking")
        config.build_options(RankingOptions if of_cf else cls, cfg[group], group)


def test_every_data_key_is_an_option_of_the_recipe_or_common() -> None:
    import inspect

    for option in config.options("data"):
        node = config.plain(config.compose("train", [f"data={option}"]).data)
        target = node.pop("_target_")
        recipe = inspect.signature(import_target(target)).parameters
        if target.endswith(".interactions"):
            assert set(node) == set(recipe), option
            continue
        common = set(DataOptions.__dataclass_fields__)
        assert not set(recipe) & common, option
        assert set(node) == set(recipe) | common, option
        if hasattr(sys.modules[import_target(target).__module__], "LABELS"):
            assert node["labels"] is None, f"{option} leaves the choice to the model's family"


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
        (["trainer=fast"], r"Allowed: debug, default, overfit, ranking"),
    ],
)
def test_mistakes_name_the_nearest(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.compose("train", overrides)


@pytest.mark.parametrize(
    "value", ["genre=Comedy", "year>=1990 and genre!=Film Noir", "a<3", "days/day=3/part.csv"]
)
def test_comparisons_need_no_second_pair_of_quotes(value: str) -> None:
    assert config.compose("recommend", [f"where={value}"]).where == value
    assert config.compose("recommend", [f"where='{value}'"]).where == value
    assert config.compose("recommend", [f'where="{value}"']).where == value


def test_cf_models_get_a_trainer_of_their_own_unless_one_is_named() -> None:
    for cf in config.options("cf"):
        assert config.compose("train", [f"cf={cf}"]).trainer.monitor == "recall_at_20"
        assert config.compose("train", [f"cf={cf}", "trainer=debug"]).trainer.monitor == "auc"
    assert config.compose("train", ["ctr=autoint"]).trainer.monitor == "auc"


def test_pairs_and_rows_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("user,item\n1,2\n1,3\n")
    node = config.compose(
        "train", ["data=interactions", f"data.path={tmp_path / 'pairs.csv'}", "data.user=user"]
    ).data
    assert config.build_interactions(node).num_items == 2
    with pytest.raises(ConfigError, match="user-item pairs without a label"):
        config.build_dataset(node)
    with pytest.raises(ConfigError, match=r"data=criteo has no user-item pairs.*data=interactions"):
        config.build_interactions(config.compose("train", ["data=criteo"]).data)
    both = config.compose("train", ["data=movielens100k", "data.history=true"]).data
    with pytest.raises(ConfigError, match=r"data\.history=True is nothing for cf"):
        config.build_interactions(both)


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
    overrides = ["data.fields.my_column.kind=ignore", "data.nested.my_label=click"]
    cfg = config.compose("train", ["data=parquet", *overrides])
    assert config.plain(cfg.data.fields) == {"my_column": {"kind": "ignore"}}
    assert config.plain(cfg.data.nested) == {"my_label": "click"}


@pytest.mark.parametrize(
    ("data", "labels"),
    [("synthetic", ["click", "conversion"]), ("synthetic_tasks", ["first", "second", "opposed"])],
)
def test_a_model_of_several_tasks_gets_all_labels_and_any_other_the_first(
    data: str, labels: list[str]
) -> None:
    node = config.compose("train", [f"data={data}", "data.rows=50"]).data

    def built(asked: list[str] | None = None, **family: str) -> list[str]:
        raw, _ = config.build_dataset(OmegaConf.merge(node, {"labels": asked}), **family)
        return list(raw.schema.labels)

    assert built() == built(family="ctr") == built(family="cf") == labels[:1]
    assert built(family="mtl") == labels
    for family in ("ctr", "mtl"):  # what is asked for is what one gets
        for asked in (labels[1:2], labels[1::-1]):
            assert built(asked, family=family) == asked


def test_a_recipe_that_names_no_labels_is_asked_as_before(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,click\n1,2,0\n1,3,1\n")
    overrides = ["data=parquet", f"data.path={tmp_path / 'rows.csv'}", "data.label=click"]
    node = config.compose("train", overrides).data
    assert config.build_dataset(node, "mtl")[0].schema.labels == ("click",)


def test_exactly_one_model() -> None:
    menu = r"got none(.|\n)*ctr: (\w+ )*autoint (\w+ )*dcnv2(.|\n)*Example"
    with pytest.raises(ConfigError, match=menu):
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
