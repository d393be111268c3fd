"""Alerts: once each, never lost, and a webhook's URL in no log. The webhook is a real server on loopback."""

import logging
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from marketdata.alerting import of_entries
from marketdata.alerts import MOST_AT_ONCE, Alert, Severity, link, news, payload, send
from marketdata.errors import UsageError
from marketdata.lake import Lake, paths
from marketdata.ledger import Entry, Event, State, to_frame
from marketdata.market import Market
from marketdata.settings import Settings
from tests.webhook import SECRET, Webhook

BTC = Market("kraken", "BTC/USD")


@pytest.fixture
def settings(tmp_path: Path, webhook: Webhook) -> Settings:
    return Settings.load(_env_file=None, home=tmp_path, alert_webhook=SecretStr(webhook.url))


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return Lake.open(settings.lake_url, settings=settings)


def alert(key: str = "one", **more: Any) -> Alert:
    return Alert(key, f"{BTC} {key}", "3 trades are missing: ids 5 to 7.", **more)


def test_an_alert_goes_to_the_webhook_and_to_the_log_once(
    settings: Settings, lake: Lake, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    assert [send(settings, lake, [alert()]) for _ in range(3)] == [1, 0, 0]
    assert len(webhook.seen) == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "ids 5 to 7" in caplog.text


def test_what_the_webhook_is_sent_is_what_slack_takes() -> None:
    body = payload(alert(link="http://127.0.0.1:3000/assets/kraken/trades?partition=a%7Cb"))
    assert body["text"].startswith("ERROR kraken:BTC/USD one: 3 trades")
    (block,) = body["blocks"]
    assert block["type"] == "section"
    assert block["text"]["type"] == "mrkdwn"
    assert block["text"]["text"].endswith(
        "<http://127.0.0.1:3000/assets/kraken/trades?partition=a%7Cb|Open it in Dagster>"
    )
    long = payload(Alert("k", "<b> & co", "x" * 10_000))
    assert "&lt;b&gt; &amp; co" in long["blocks"][0]["text"]["text"]
    assert len(long["blocks"][0]["text"]["text"]) <= 3_000


@pytest.mark.parametrize("status", [500, 404, 429, 302])
def test_an_alert_that_was_not_taken_is_sent_at_the_next_call(
    settings: Settings, lake: Lake, webhook: Webhook, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    webhook.status = status
    assert send(settings, lake, [alert("one"), alert("two")]) == 0
    assert len(webhook.seen) == 1  # it would take the second no more than the first
    webhook.status = 200
    assert send(settings, lake) == 2
    assert webhook.texts[1:] == [payload(alert(key))["text"] for key in ("one", "two")]
    assert send(settings, lake, [alert("one")]) == 0
    assert f"HTTP {status}" in caplog.text
    assert SECRET not in caplog.text


def test_a_message_that_is_refused_by_itself_does_not_hold_up_the_others(
    settings: Settings, lake: Lake, webhook: Webhook
) -> None:
    webhook.refuse = "one"
    assert send(settings, lake, [alert("one"), alert("two")]) == 1
    webhook.refuse = ""
    assert send(settings, lake) == 1


def test_a_webhook_that_is_away_loses_nothing_and_its_url_is_in_no_log(
    settings: Settings, lake: Lake, webhook: Webhook, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    webhook.close()
    caplog.set_level(logging.DEBUG)
    assert send(settings, lake, [alert()]) == 0
    assert send(settings, lake) == 0
    assert "Connection refused" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in repr(settings)
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*.json"))
    again = Webhook()
    try:
        back = settings.model_copy(update={"alert_webhook": SecretStr(again.url)})
        assert send(back, lake) == 1
    finally:
        again.close()


def test_a_call_sends_a_few_and_the_others_follow(settings: Settings, lake: Lake, webhook: Webhook) -> None:
    many = [alert(str(number)) for number in range(MOST_AT_ONCE + 5)]
    assert send(settings, lake, many) == MOST_AT_ONCE
    assert send(settings, lake, many) == 5
    assert len(set(webhook.texts)) == len(many)


def test_without_a_webhook_alerts_go_to_the_log_alone(
    settings: Settings, lake: Lake, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    alone = settings.model_copy(update={"alert_webhook": None})
    assert [send(alone, lake, [alert(severity=Severity.WARNING)]) for _ in range(2)] == [1, 0]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert send(settings, lake, [alert()]) == 0
    assert webhook.seen == []


def test_what_was_told_together_is_not_told_again_by_itself(
    settings: Settings, lake: Lake, webhook: Webhook
) -> None:
    together = Alert("both", "2 days failed", "", covers=("one", "two"))
    webhook.status = 500
    send(settings, lake, [together])
    assert news(lake, ["one", "two", "three"]) == {"three"}
    webhook.status = 200
    send(settings, lake)
    assert news(lake, ["one", "two", "three"]) == {"three"}
    assert send(settings, lake, [alert("one")]) == 0


def test_two_processes_that_send_at_once_send_each_alert_once(
    settings: Settings, lake: Lake, webhook: Webhook
) -> None:
    same = [alert(str(number)) for number in range(4)]
    threads = [threading.Thread(target=send, args=(settings, lake, same)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert sorted(webhook.texts) == sorted(payload(one)["text"] for one in same)


def test_an_alert_that_another_process_is_writing_does_not_wait_yet(
    settings: Settings, lake: Lake, webhook: Webhook
) -> None:
    other = lake.storage.local(f"{paths.ALERTS_WAITING}/{paths.temporary('one.json', '1-1')}")
    other.parent.mkdir(parents=True)
    other.touch()
    assert send(settings, lake, [alert("one")]) == 1
    assert other.exists()


def test_a_link_names_the_partition_of_the_asset(settings: Settings) -> None:
    assert link(settings, BTC, "trades", date(2025, 6, 8)) is None
    known = settings.model_copy(update={"dagster_url": "http://127.0.0.1:3000"})
    assert link(known, BTC, "trades", date(2025, 6, 8)) == (
        "http://127.0.0.1:3000/assets/kraken/trades?partition=2025-06-08%7CBTC-USD"
    )


@pytest.mark.parametrize(
    "wrong", ["hooks.example.org/x-secret", "ftp://host/x-secret", "http://:80/x-secret"]
)
def test_a_webhook_that_is_no_url_is_refused_without_repeating_it(wrong: str) -> None:
    with pytest.raises(UsageError, match="MARKETDATA_ALERT_WEBHOOK is not usable") as refused:
        Settings.load(_env_file=None, alert_webhook=wrong)
    assert "x-secret" not in str(refused.value)


def entry(event: Event, state: State, reason: str, **more: Any) -> Entry:
    start = datetime(2025, 6, 8, tzinfo=UTC)
    given = {"subject": "stream", "start": start, "end": start + timedelta(days=1), "detail": "Facts."} | more
    return Entry(start + timedelta(days=2), event, state, BTC, reason=reason, **given)


def test_drift_and_what_was_given_up_are_told_and_mere_findings_are_not(settings: Settings) -> None:
    known = settings.model_copy(update={"dagster_url": "http://127.0.0.1:3000"})
    at = datetime(2025, 6, 8, 12, tzinfo=UTC)
    hole = {"subject": "store", "start": at, "end": at + timedelta(minutes=7), "attempt": 1}
    entries = [
        entry(Event.FINDING, State.INFORMATION, "drift"),
        entry(Event.OUTCOME, State.EXHAUSTED, "hole", **hole),
        entry(Event.FINDING, State.OPEN, "late trade"),
        entry(Event.OUTCOME, State.REPAIRED, "late trade"),
    ]
    drift, given_up = of_entries(known, to_frame(entries))
    assert drift.title == "kraken:BTC/USD 2025-06-08: stream and history drift apart"
    assert drift.link == ("http://127.0.0.1:3000/assets/kraken/reconciliation?partition=2025-06-08%7CBTC-USD")
    assert given_up.title == "kraken:BTC/USD 2025-06-08 12:00 UTC: store hole, given up after 1 attempt"
    assert f"marketdata repairs --case {entries[1].case}" in given_up.text


def test_all_markets_of_a_dead_feed_are_told_of_together(settings: Settings) -> None:
    dead = entry(Event.FINDING, State.OPEN, "dead", subject="feed")
    both = [dead, replace(dead, market=Market("kraken", "ETH/USD"))]
    (alert,) = of_entries(settings, to_frame(both))
    assert alert.title == "kraken: the feed is dead"
    assert {alert.key, *alert.covers} == {f"ledger {each.entry_id}" for each in both}
