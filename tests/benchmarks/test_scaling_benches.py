"""The benches of sharding run: small, on a CPU; what they measure is not judged here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", f"tests/benchmarks/{name}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_bench_for_gpus_makes_its_table_on_a_cpu(tmp_path: Path) -> None:
    small = ["--device", "cpu", "--most", "500", "--batch", "64", "--steps", "2", "--dims", "16"]
    run("bench_gpu_training", *small, "--compile", "false", "--out", f"{tmp_path}/table.md")
    table = (tmp_path / "table.md").read_text().splitlines()
    assert "torch" in table[0]
    assert len([line for line in table if line.startswith("| ")]) == 1 + 3 * 2
    assert {line.count("|") for line in table[2:]} == {13}


@pytest.mark.slow
def test_the_bench_of_sharding_compares_its_arms() -> None:
    text = run("bench_sharding", "--most", "500", "--batch", "64", "--steps", "2")
    for arm in ("sparse", "fused", "sharded", "tables"):
        assert f"\n{arm} " in text


@pytest.mark.slow
def test_plans_of_machines_that_are_not_here() -> None:
    lines = run("bench_plans", "--rows", "10000000000", "--dims", "16").splitlines()
    eight, many = (line for line in lines if "80 GB" in line)
    assert "does not fit" in eight
    assert "row_wise" in many
