"""The README keeps its word: every command composes, every file it names exists."""

import re
import shlex
from pathlib import Path

import pytest

from recsys import config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"python -m pipelines\.(\w+)([^`\n#]*)", README)))
OVERRIDES = sorted(
    set(re.findall(r"`((?:data|ctr|gate|embedding|optimizer|trainer)[\w.]*=[^`]+)`", README))
)


@pytest.mark.parametrize(("pipeline", "rest"), COMMANDS)
def test_every_command_composes(pipeline: str, rest: str) -> None:
    assert (ROOT / "pipelines" / f"{pipeline}.py").is_file()
    filled = re.sub(r"<[^>]*>", "1", rest.replace("experiment=<name>", "experiment=frappe_lr"))
    if (ROOT / "configs" / f"{pipeline}.yaml").is_file():
        config.compose(pipeline, [a for a in shlex.split(filled) if not a.startswith("-")])


@pytest.mark.parametrize("text", OVERRIDES)
def test_every_option_it_names_exists(text: str) -> None:
    named = [re.sub(r"<[^>]*>", "1", override) for override in shlex.split(text)]
    chosen = {override.partition("=")[0] for override in named}
    base = [one for one in ("ctr=autoint", "data=parquet") if one.partition("=")[0] not in chosen]
    config.compose("train", [*base, *named])


def test_every_folder_of_the_tree_exists() -> None:
    tree = re.search(r"```text\n(recsys/\n.*?)```", README, re.DOTALL)
    assert tree is not None
    parent = ROOT
    for line in tree.group(1).splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            parent = ROOT / name
        path = parent / name if line.startswith(" ") else ROOT / name
        assert path.exists(), name


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
