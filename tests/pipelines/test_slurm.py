"""The batch script, under commands that behave as Slurm's do on two machines."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.conftest import ROOT, mine

SCRIPT = ROOT / "pipelines/slurm.sh"
HOSTS = """#!/bin/bash
# scontrol show hostnames <list>: a line for every machine.
[[ "$1 $2" == "show hostnames" ]] && tr ',' '\\n' <<< "$3"
"""
START = """#!/bin/bash
# srun: the command on every machine at once; a failure of one is the failure of all.
[[ "$1" == --kill-on-bad-exit=1 ]] && shift
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
    SLURM_NODEID=$node "$@" > "$SAID/node$node.txt" 2>&1 & started+=($!)
done
for one in "${started[@]}"; do wait "$one" || failed=1; done
exit "${failed:-0}"
"""


def submit(tmp_path: Path, home: Path, *arguments: str, nodes: int, **more: str) -> tuple[int, str]:
    commands = tmp_path / "bin"
    commands.mkdir(exist_ok=True)
    for name, text in (("scontrol", HOSTS), ("srun", START)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHON": sys.executable,
        "SAID": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": ",".join(["localhost"] * nodes),
        **more,
    }
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        cwd=home, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    said = "".join(path.read_text() for path in sorted(tmp_path.glob("node*.txt")))
    return done.returncode, done.stdout + done.stderr + said


def test_outside_a_job_it_says_what_to_do(tmp_path: Path) -> None:
    code, said = submit(tmp_path, tmp_path, "ctr=fm", nodes=1)
    assert code != 0
    assert "submit it with sbatch" in said


def test_what_is_launched(tmp_path: Path) -> None:
    """Processes are the GPUs of a machine, threads its processors divided among them."""
    show = tmp_path / "show.sh"
    show.write_text('#!/bin/bash\necho "threads $OMP_NUM_THREADS" "$@"\n')
    show.chmod(0o755)
    job = {"SLURM_JOB_ID": "31", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "24"}
    code, said = submit(
        tmp_path, tmp_path, "ctr=fm", "data.path=a b.parquet", nodes=1,
        PYTHON=str(show), OMP_NUM_THREADS="", **job,
    )  # fmt: skip
    assert code == 0
    assert "threads 6" in said
    assert "--nproc-per-node 4" in said
    assert "--rdzv-endpoint localhost:20031" in said
    assert "output_dir=outputs/slurm-31 ctr=fm data.path=a b.parquet" in said
    _, said = submit(tmp_path, tmp_path, "output_dir=mine", nodes=1, PYTHON=str(show), **job)
    assert "outputs/slurm" not in said


@pytest.mark.slow
def test_two_machines_train_one_run_and_a_requeued_job_continues_it(
    tmp_path: Path, home: Path, clicks: Path
) -> None:
    job = str(random.SystemRandom().randrange(20_000))  # two tests on a host need two ports
    keys = [*mine(clicks), "tracking=none", "importance_rows=0", "trainer.patience=0"]
    keys += ["optimizer=rowwise_adagrad", "embedding.sharding=row_wise"]
    code, said = submit(
        tmp_path, home, *keys, "trainer.epochs=2", "trainer.batch_size=abc", nodes=2,
        SLURM_JOB_ID=job, RESTARTS="0",
    )  # fmt: skip
    assert code != 0
    assert "trainer.batch_size" in said
    code, said = submit(tmp_path, home, *keys, "trainer.epochs=2", nodes=2, SLURM_JOB_ID=job)
    assert code == 0, said[-3000:]
    folder = home / "outputs" / f"slurm-{job}"
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"]["test"]["auc"] > 0.6
    assert "Plan for 2 processes" in said
    (folder / "result.json").unlink()  # as if the job had been taken away before its end
    code, said = submit(tmp_path, home, *keys, "trainer.epochs=2", nodes=2, SLURM_JOB_ID=job)
    assert code == 0, said[-3000:]
    assert "continuing after step" in said
    again = json.loads((folder / "result.json").read_text())
    assert again["metrics"] == result["metrics"]
