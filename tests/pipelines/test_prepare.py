"""python -m pipelines.prepare, an edited schema, and the cache that training finds."""

from pathlib import Path

import yaml

from tests.pipelines.conftest import Run


def test_prepare_then_edit_the_schema_then_train(run: Run, clicks: Path, home: Path) -> None:
    data = ["data=parquet", f"data.path={clicks}", "data.label=clicked"]
    done = run("pipelines.prepare", *data)
    for column in ("user", "item", "price", "city", "tags"):
        assert column in done.stdout
    schema = Path(done.stdout.strip().splitlines()[-1].split(": ")[1])
    edited = yaml.safe_load((home / schema).read_text())
    edited["fields"] = [field for field in edited["fields"] if field["name"] != "city"]
    (home / "edited.yaml").write_text(yaml.safe_dump(edited, sort_keys=False))
    quick = ["trainer.epochs=1", "tracking=none", "ctr=lr"]
    again = run("pipelines.train", *data, *quick)
    assert len(list((home / "outputs/prepared").glob("clicks-*"))) == 1
    assert "city" in again.stdout
    done = run("pipelines.train", *data, *quick, "data.schema=edited.yaml")
    assert "city" not in done.stdout


def test_help_and_mistakes(run: Run, told: Run) -> None:
    assert "data=parquet" in run("pipelines.prepare", "--help").stdout
    done = told("pipelines.prepare", "data.pth=x")
    assert done.returncode == 2
    done = told("pipelines.prepare", "data=parquet")
    assert done.returncode == 2
    assert "data.path" in done.stderr
