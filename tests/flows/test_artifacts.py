"""Artifacts: keys, throttling, and that they never fail a run."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # prefect's own imports

from pdediff.errors import DataError, ResourceError  # noqa: E402
from pdediff.flows import PROGRESS, artifacts, stage  # noqa: E402
from pdediff.metrics import finite_json, rows, summarise  # noqa: E402
from pdediff.progress import JsonProgress, PlainProgress, SilentProgress  # noqa: E402


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


def test_scores_become_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the file as an evaluation writes it: means over two cases, a diverged one and an unknown score."""
    scored = [
        *rows("dps", 0, {"pressure": {"crps": 0.5, "rmse": 7.0}}, {"misfit": 1.25}),
        *rows("dps", 1, {"pressure": {"crps": 0.25, "rmse": 7.0}}, {"misfit": float("nan")}),
        *rows("smc", 0, {"pressure": {"crps": float("nan")}}),
    ]
    (tmp_path / "scores.json").write_text(finite_json(summarise(scored)))
    monkeypatch.setattr(artifacts.FlowRunContext, "get", classmethod(lambda cls: object()))
    made = []
    monkeypatch.setattr(artifacts.artifacts, "create_table_artifact", lambda table, **options: made.append(table))
    artifacts.metrics(tmp_path)
    assert made == [
        [
            {"method": "dps", "crps of pressure": "0.375", "misfit of case": "1.25 (1 of 2 cases missing)"},
            {"method": "smc", "crps of pressure": "- (1 of 1 cases missing)"},
        ]
    ]


def test_a_report_shows_the_verdict_first_names_its_path_and_is_cut(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(artifacts.FlowRunContext, "get", classmethod(lambda cls: object()))
    written = []

    def create(text: str, key: str, description: str) -> None:
        written.append((text, description))

    monkeypatch.setattr(artifacts.artifacts, "create_markdown_artifact", create)
    for text in ("# doubtful", "# long\n" + "é" * 100_000):
        (tmp_path / "report.md").write_text(text, encoding="utf-8")
        artifacts.report({"path": str(tmp_path)})
    (short, where), (long, _) = written
    assert (short, where) == ("# doubtful", f"`{tmp_path / 'report.html'}`")
    assert long.startswith("# long\né")
    assert long.endswith("é\n\n... the rest is in report.md")
    assert len(long.encode()) < 100_000


@pytest.mark.parametrize(("chosen", "kind"), [("json", JsonProgress), ("quiet", SilentProgress), ("", PlainProgress)])
def test_the_environment_chooses_the_progress(chosen: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS, chosen)
    compute = {"cluster": "inline"}
    assert isinstance(stage.runtime_of(compute).progress._inner, kind)


@pytest.mark.parametrize(("error", "again"), [(ResourceError("disk full"), True), (DataError("bad"), False)])
def test_only_a_lack_of_resources_is_retried(error: Exception, again: bool) -> None:
    class Failed:
        def result(self, raise_on_failure: bool) -> Exception:
            return error

    assert stage.transient(None, None, Failed()) is again
