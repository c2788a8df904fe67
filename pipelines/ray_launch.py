"""Train on the machines of a Ray cluster: a torchrun on each, which find each other by themselves.

    python -m pipelines.ray_launch --machines 4 --processes 8 --gpus 8 ctr=dcnv2 data=criteo
    python -m pipelines.ray_launch --machines 2 ctr=autoint embedding.sharding=row_wise

What follows the options are the arguments of pipelines.train. A process that dies is started again
by torchrun; when a machine is lost, all of it is begun again. Both continue from the last
checkpoint, so the folder in which this is called must be one that all machines see.
"""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError
from recsys.ray_cluster import check_seen, cluster, first_line

PLACES_SECONDS = 60
"""How long the cluster is given to have the machines free."""
MEET_SECONDS = 300
"""How long launchers wait for the first of them: machines may be slow to start Python."""
STOP_SECONDS = 30
LOST = 70
"""Exit status of a launcher whose machine was lost."""
PASSED_ON = ("AWS_", "GOOGLE_", "MLFLOW_", "NCCL_", "GLOO_", "TORCH_", "OMP_", "RECSYS_")
"""Environment variables that the processes get from here, credentials among them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Launch, and start again what was lost; the exit status of the training."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    unknown = [one for one in rest if one.startswith("-")]
    if unknown:
        parser.error(f"{unknown[0]} is not an option; allowed beside these: key=value of training")
    try:
        return launch(
            rest,
            machines=_at_least(1, "--machines", options.machines),
            processes=_at_least(1, "--processes", options.processes),
            cpus=_at_least(1, "--cpus", options.cpus or options.processes),
            gpus=_at_least(0, "--gpus", options.gpus),
            restarts=_at_least(0, "--restarts", options.restarts),
            address=options.address,
        )
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.ray_launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--machines", type=int, default=1, help="how many, 1")
    parser.add_argument("--processes", type=int, default=1, help="on each machine, 1")
    parser.add_argument("--cpus", type=int, help="on each machine; else one for each process")
    parser.add_argument("--gpus", type=int, default=0, help="on each machine, 0")
    parser.add_argument("--restarts", type=int, default=1, help="of processes, and of machines, 1")
    parser.add_argument("--address", default="auto", help="of the cluster: auto, local, host:port")
    return parser


def _at_least(least: int, name: str, value: int) -> int:
    if value < least:
        raise ConfigError(f"{name} {value}; it must be {least} or more.")
    return value


def launch(
    arguments: Sequence[str],
    *,
    machines: int,
    processes: int,
    cpus: int,
    gpus: int,
    restarts: int,
    address: str,
) -> int:
    """Run the training, once or after losses again.

    Args:
        arguments: Of pipelines.train.
        machines: How many.
        processes: On each machine.
        cpus: On each machine.
        gpus: On each machine.
        restarts: How often processes of a machine, and all machines together, are started again.
        address: Of the cluster.

    Returns:
        Exit status: 0 when the training is done.

    Raises:
        ConfigError: Ray is not installed or does not answer, or the cluster has not got what is
            asked for, or its machines do not see this folder.
    """
    job = uuid.uuid4().hex[:8]
    own = ["trainer.resume=auto"]
    if not any(one.startswith("output_dir=") for one in arguments):
        own.append(f"output_dir=outputs/ray-{job}")
    environment = {key: value for key, value in os.environ.items() if key.startswith(PASSED_ON)}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cpus // processes)))
    with cluster(address, "--address", logs=True) as ray:
        check_seen(ray, Path.cwd())
        places = _reserve(ray, machines, {"CPU": cpus, **({"GPU": gpus} if gpus else {})})
        try:
            for attempt in range(restarts + 1):
                command = _command(ray, places, job, attempt, machines, processes, restarts)
                code = _run(ray, places, [*command, *own, *arguments], environment)
                if code != LOST or attempt == restarts:
                    return code
                print(f"a machine was lost; starting again ({attempt + 1} of {restarts})")
        finally:
            ray.util.remove_placement_group(places)
    raise AssertionError("unreachable")


def _reserve(ray: Any, machines: int, bundle: Mapping[str, int]) -> Any:
    """Processors and GPUs for each launcher, on machines of their own where there are so many."""
    groups = importlib.import_module("ray.util.placement_group")
    places = groups.placement_group([dict(bundle)] * machines, strategy="SPREAD")
    if not places.wait(PLACES_SECONDS):
        ray.util.remove_placement_group(places)
        has = {key: int(ray.cluster_resources().get(key, 0)) for key in ("CPU", "GPU")}
        asked = ", ".join(f"{count} {kind}" for kind, count in bundle.items())
        raise ConfigError(
            f"{machines} times {asked} were not free within {PLACES_SECONDS} s; the cluster has "
            f"{has['CPU']} CPU and {has['GPU']} GPU in all. Ask for less, or add machines."
        )
    return places


def _command(
    ray: Any, places: Any, job: str, attempt: int, machines: int, processes: int, restarts: int
) -> list[str]:
    """What each machine runs; the first of them is where the others meet."""
    host, port = ray.get(_on(ray, places, 0, _free_endpoint).remote())
    return [
        "--nnodes", str(machines),
        "--nproc-per-node", str(processes),
        "--max-restarts", str(restarts),
        "--rdzv-id", f"{job}-{attempt}",
        "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"{host}:{port}",
        "-m", "pipelines.train",
    ]  # fmt: skip


def _run(ray: Any, places: Any, command: list[str], environment: dict[str, str]) -> int:
    """Start the launchers and wait; the first that fails ends the others."""
    folder = str(Path.cwd())
    waiting = [
        _on(ray, places, index, _start_torchrun).remote(index == 0, command, environment, folder)
        for index in range(places.bundle_count)
    ]
    code = 0
    try:
        while waiting and not code:
            ended, waiting = ray.wait(waiting, num_returns=1)
            try:
                code = ray.get(ended[0])
            except ray.exceptions.RayError as error:
                print(f"error: {first_line(error)}", file=sys.stderr)
                code = LOST
        return code
    finally:
        for one in waiting:
            ray.cancel(one)
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=STOP_SECONDS + 5)


def _on(ray: Any, places: Any, index: int, function: Any) -> Any:
    """A function as a task in one of the places, with all that is reserved there."""
    schedule = importlib.import_module("ray.util.scheduling_strategies")
    bundle = places.bundle_specs[index]
    strategy = schedule.PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=index)
    return ray.remote(function).options(
        num_cpus=bundle["CPU"],
        num_gpus=bundle.get("GPU", 0),
        max_retries=0,
        scheduling_strategy=strategy,
    )


def _free_endpoint() -> tuple[str, int]:
    ray = importlib.import_module("ray")
    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def _start_torchrun(
    is_host: bool, command: list[str], environment: dict[str, str], folder: str
) -> int:
    """One launcher. It is told by address who it is and whether the others meet at it: it would
    find out by names, which the machines of a cluster often do not know of each other."""
    own = importlib.import_module("ray").util.get_node_ip_address()
    meeting = f"is_host={int(is_host)},read_timeout={MEET_SECONDS}"
    told = ["-m", "torch.distributed.run", "--local-addr", own, "--rdzv-conf", meeting]
    return _start([*told, *command], environment, folder)


def _start(command: list[str], environment: dict[str, str], folder: str) -> int:
    """A process, until it ends: its exit status. Cancelled, it takes its own processes along."""
    everything = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    process = subprocess.Popen([sys.executable, *command], cwd=folder, env=everything)
    try:
        while process.poll() is None:
            time.sleep(0.2)
    except BaseException:  # a cancelled task is interrupted
        process.terminate()  # torchrun ends its processes
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    return process.returncode


if __name__ == "__main__":
    raise SystemExit(main())
