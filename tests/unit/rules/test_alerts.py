"""When the loop tells of a task; the time is passed in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shared.rules.alerts import (
    HEALING_PATIENCE,
    SILENCE,
    Alerts,
    after_failure,
    after_silence,
    after_success,
    is_notice_due,
)

START = datetime(2026, 1, 28, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_failure__is_told_when_it_outlasts_its_patience_and_then_daily() -> None:
    assert is_notice_due(START, None, START)
    assert not is_notice_due(START, None, START + HEALING_PATIENCE / 2, HEALING_PATIENCE)
    assert is_notice_due(START, None, START + HEALING_PATIENCE, HEALING_PATIENCE)
    assert not is_notice_due(START, START + HOUR, START + 24 * HOUR)
    assert is_notice_due(START, START + HOUR, START + 25 * HOUR)
    assert is_notice_due(START, START + 9 * HOUR, START + HOUR), "told by a clock that ran ahead"


def test_silence__is_told_at_once_then_once_a_day_and_its_end_once() -> None:
    alerts: Alerts = {}
    told = []
    for number in range(5):  # a run each 12 hours, each killed for its time limit
        began = START + number * 12 * HOUR
        alerts, news = after_silence(alerts, "work", began, began + HOUR)
        told.append(news and (news.kind, news.began_at))
        alerts, news = after_failure(alerts, "work", "its time limit is over", began + 12 * HOUR, threshold=9)
        assert news is None
    assert told == [
        ("silent", START), None, ("silent", START + 24 * HOUR), None, ("silent", START + 48 * HOUR)
    ]  # fmt: skip
    alerts, news = after_success(alerts, START + 61 * HOUR)
    assert news is not None
    assert (news.kind, news.endings) == ("over", (SILENCE,))
    assert after_success(alerts, START + 62 * HOUR)[1] is None


def test_silence__counts_for_itself() -> None:
    alerts, _ = after_failure({}, "work", "exit code 75", START, threshold=3)
    alerts, news = after_silence(alerts, "work", START, START + HOUR)
    assert news is not None
    assert alerts["exit code 75"].failures == 1
