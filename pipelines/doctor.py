"""Check this machine and installation, and say what to do about whatever is wrong.

    python -m pipelines.doctor
    python -m pipelines.doctor --store http://tracking.example:5000

Exit status 0 when a model can be trained, 1 when something must be repaired first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from recsys.environment import Finding, Level, check_environment
from recsys.tracking.console import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was found; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--store",
        metavar="URI",
        help="MLflow store to check instead of MLFLOW_TRACKING_URI or outputs/mlflow.db",
    )
    options = parser.parse_args(arguments)
    return report(check_environment(options.store), Console())


def report(findings: Sequence[Finding], console: Console) -> int:
    """Print findings as a table, then one remedy per problem; return the exit status."""
    rows = [(finding.level, finding.name, finding.value) for finding in findings]
    console.table("Environment", ("", "what", "found"), rows)
    problems = [finding for finding in findings if finding.level is not Level.OK]
    for finding in problems:
        console.note(f"{finding.level}: {finding.name}: {finding.remedy}")
    errors = sum(finding.level is Level.ERROR for finding in findings)
    if errors:
        console.note(f"\n{errors} of {len(findings)} checks failed; repair these before training.")
        return 1
    console.note("ready: python -m pipelines.train ctr=autoint")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
