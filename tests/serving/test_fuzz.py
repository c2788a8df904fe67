"""Requests made up from the server's own OpenAPI document: no 5xx, no hang, nothing undocumented.

What the document allows is accepted, what it forbids is refused, answers are as it says. One thing
no document can say: which numbers are too far from those of training to have a finite score.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import positive_data_acceptance
from schemathesis.generation import GenerationMode

from recsys.models.saved import SavedModel
from recsys.models.saved_cf import SavedCF
from tests.serving.process import ServerProcess

SECONDS = 10.0
FEW = settings(
    max_examples=25, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
LIMITS = ("limits.max_rows=40", "reload_every=0")


@pytest.fixture(scope="module")
def scores(saved: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("fuzzed")
    with ServerProcess(home, f"run={saved.save(home / 'run')}", *LIMITS) as one:
        yield one


def check(server: ServerProcess, mode: GenerationMode, few: settings = FEW) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) == 4
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.method == "get":
            continue  # nothing can be wrong with it

        @few
        @given(case=operation.as_strategy(generation_mode=mode))
        def answered(case: schemathesis.Case) -> None:
            response = case.call(timeout=SECONDS)
            excluded = [positive_data_acceptance] if b"no finite score" in response.content else []
            case.validate_response(response, excluded_checks=excluded)

        answered()
    assert server.process.poll() is None
    assert "Traceback" not in server.printed()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_made_up_requests_are_answered_as_documented(
    scores: ServerProcess, mode: GenerationMode
) -> None:
    check(scores, mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_many_of_them(scores: ServerProcess, mode: GenerationMode) -> None:
    check(scores, mode, settings(FEW, max_examples=300))


@pytest.mark.slow
def test_every_phase_of_the_fuzzer_on_recommendations(saved_cf: SavedCF, tmp_path: Path) -> None:
    with ServerProcess(tmp_path, f"run={saved_cf.save(tmp_path / 'run')}", *LIMITS) as server:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("st")), "run", f"{server.url}/openapi.json",
             "-n", "150", "--seed", "1", "--request-timeout", str(SECONDS),
             "--generation-database", "none", "--no-color"],
            capture_output=True, text=True, cwd=tmp_path, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-5000:]
        assert "Traceback" not in server.printed()
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
