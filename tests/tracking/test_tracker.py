"""The tracker that keeps nothing still checks what it is given."""

from pathlib import Path

import pytest

from recsys.tracking.tracker import MAX_METRIC_NAMES, Tracker


def test_checks_without_keeping(tmp_path, caplog):
    tracker = Tracker("abc")
    assert (tracker.run_id, tracker.status, tracker.url) == ("abc", "FINISHED", "")
    with pytest.raises(ValueError, match="is not allowed"):
        tracker.log_metrics({"auc@": 0.5}, 1)
    with pytest.raises(FileNotFoundError):
        tracker.log_artifact(Path(tmp_path / "nowhere"))
    assert caplog.records == []


def test_too_many_names_are_warned_about_once(caplog):
    tracker = Tracker("abc")
    for i in range(MAX_METRIC_NAMES):
        tracker.log_metrics({f"m{i}": 0.0}, 1)
    assert caplog.records == []
    tracker.log_metrics({"one_more": 0.0}, 1)
    tracker.log_metrics({"and_another": 0.0}, 1)
    assert len(caplog.records) == 1
    assert f"{MAX_METRIC_NAMES + 1} different metrics" in caplog.text
