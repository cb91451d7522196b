"""Artifacts: keys, throttling, and that they never fail a run."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # prefect's own imports

from pdediff.errors import DataError, ResourceError  # noqa: E402
from pdediff.flows import artifacts, stage  # noqa: E402
from pdediff.progress import SilentProgress  # noqa: E402


@pytest.mark.parametrize(
    ("text", "key"), [("My_Key", "my-key"), ("a b/../c", "a-b-c"), ("---", "run"), ("red_diff 2", "red-diff-2")]
)
def test_slug_gives_keys_that_prefect_takes(text: str, key: str) -> None:
    assert artifacts.slug(text) == key


def test_nothing_is_written_outside_of_a_run() -> None:
    assert artifacts.attempt(lambda: pytest.fail("called")) is None


def test_a_failure_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(artifacts.FlowRunContext, "get", classmethod(lambda cls: object()))
    assert artifacts.attempt(lambda: 1 // 0) is None
    assert "could not be written" in caplog.text


def test_progress_is_throttled_and_ends_with_the_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts.FlowRunContext, "get", classmethod(lambda cls: object()))
    created, sent, now = [], [], [0.0]
    monkeypatch.setattr(
        artifacts.artifacts, "create_progress_artifact", lambda *_, key, description: created.append(key) or uuid4()
    )
    monkeypatch.setattr(artifacts.artifacts, "update_progress_artifact", lambda _, percent: sent.append(percent))
    with artifacts.ArtifactProgress(SilentProgress(), clock=lambda: now[0]).bar("my_stage", 50) as bar:
        for _ in range(50):
            now[0] += 0.3  # 15 s in all
            bar.advance()
    assert created == ["progress-my-stage"]
    # Every seventh call is 2.1 s after the last that was sent.
    assert [round(percent) for percent in sent] == [
        14,
        28,
        42,
        56,
        70,
        84,
        98,
        100,
    ]


def test_scores_become_rows() -> None:
    scores = {"verdict": "good", "dps": {"crps": 0.5, "coverage": {"0.9": 0.8}, "note": "x"}, "levels": [0.5]}
    assert artifacts.score_rows(scores) == [{"name": "dps", "crps": 0.5, "coverage.0.9": 0.8}]


def test_a_report_names_verdict_and_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(artifacts.FlowRunContext, "get", classmethod(lambda cls: object()))
    written = []
    monkeypatch.setattr(artifacts.artifacts, "create_markdown_artifact", lambda text, **options: written.append(text))
    (tmp_path / "report.md").write_text("# doubtful")
    artifacts.report({"path": str(tmp_path)})
    assert written == [f"Report: `{tmp_path / 'report.html'}`\n\n# doubtful"]


@pytest.mark.parametrize(("error", "again"), [(ResourceError("disk full"), True), (DataError("bad"), False)])
def test_only_a_lack_of_resources_is_retried(error: Exception, again: bool) -> None:
    class Failed:
        def result(self, raise_on_failure: bool) -> Exception:
            return error

    assert stage.transient(None, None, Failed()) is again
