"""Each way to misbehave does what it says."""

import hashlib
import http.client
import io
import time
import zipfile
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import ccxt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import UnknownName, UsageError
from marketdata.exchange_sim import RunningExchange
from marketdata.exchange_sim.faults import GARBAGE, FaultBook, parse_faults
from tests.exchange_sim.conftest import NOW, get, get_bytes, send

TRADES = "/kraken/0/public/Trades"
AGG = "/binance/api/v3/aggTrades"
ZIP = "data/spot/daily/aggTrades/BTCEUR/BTCEUR-aggTrades-2025-06-08.zip"
SINCE = str(int(NOW.timestamp()) * 10**9 - 3_600 * 10**9)


def kraken_rows(server: RunningExchange, cursor: str = SINCE, count: int = 100) -> list[Any]:
    query = {"pair": "XBTUSD", "since": cursor, "count": count}
    return list(get(f"{server.url}{TRADES}", query)["result"]["XXBTZUSD"])


def agg_rows(server: RunningExchange) -> list[Any]:
    query = {"symbol": "BTCUSDT", "limit": 100, "fromId": 170_000_000}
    return list(get(f"{server.url}{AGG}", query))


def test_429_says_when_to_come_back_and_then_all_is_well(
    server: RunningExchange, kraken_client: Callable[..., Any]
) -> None:
    server.faults([{"kind": "429", "match": "/Trades", "times": 1, "retry_after": 2.5}])
    with pytest.raises(HTTPError) as caught:
        kraken_rows(server)
    with caught.value as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "2.5")
    assert len(kraken_rows(server)) == 100
    server.faults([{"kind": "429", "match": "/Trades"}])
    with pytest.raises(ccxt.NetworkError):
        kraken_client(server).publicGetTrades({"pair": "XBTUSD"})


@pytest.mark.parametrize("kind", ["418", "500", "502"])
def test_an_error_status_is_answered(server: RunningExchange, kind: str) -> None:
    server.faults([{"kind": kind, "match": AGG, "times": 1}])
    with pytest.raises(HTTPError) as caught:
        agg_rows(server)
    with caught.value as response:
        assert response.status == int(kind)
        assert (b"<html>" in response.read()) == (kind == "502")
    assert len(agg_rows(server)) == 100


def test_html_comes_with_status_200(server: RunningExchange) -> None:
    server.faults([{"kind": "html", "match": TRADES}])
    with urlopen(f"{server.url}{TRADES}?pair=XBTUSD", timeout=60) as response:
        assert response.status == 200
        assert response.read().startswith(b"<html>")


def test_a_reply_can_be_dictated(server: RunningExchange) -> None:
    body = {"error": ["EService:Unavailable"]}
    server.faults([{"kind": "reply", "match": TRADES, "body": body}])
    assert get(f"{server.url}{TRADES}?pair=XBTUSD") == body


def test_a_timeout_stalls_and_then_gives_up(server: RunningExchange) -> None:
    server.faults([{"kind": "timeout", "match": TRADES, "seconds": 0.3, "times": 2}])
    with pytest.raises((TimeoutError, URLError)):
        urlopen(f"{server.url}{TRADES}?pair=XBTUSD", timeout=0.1)
    begun = time.perf_counter()
    with pytest.raises(HTTPError, match="504") as caught:
        urlopen(f"{server.url}{TRADES}?pair=XBTUSD", timeout=60)
    caught.value.close()
    assert time.perf_counter() - begun >= 0.3


def test_latency_delays_a_right_answer(server: RunningExchange) -> None:
    server.faults([{"kind": "latency", "match": TRADES, "seconds": 0.2, "times": 1}])
    begun = time.perf_counter()
    assert len(kraken_rows(server)) == 100
    assert time.perf_counter() - begun >= 0.2


def test_latency_of_every_answer_is_a_setting(exchange_server: Callable[..., RunningExchange]) -> None:
    server = exchange_server(latency_ms=100)
    begun = time.perf_counter()
    get(f"{server.binance}/api/v3/ping")
    assert time.perf_counter() - begun >= 0.1


def test_a_cut_body_is_shorter_than_its_content_length(server: RunningExchange) -> None:
    server.faults([{"kind": "cut", "match": TRADES, "times": 1}])
    with (
        urlopen(f"{server.url}{TRADES}?pair=XBTUSD", timeout=60) as response,
        pytest.raises(http.client.IncompleteRead) as caught,
    ):
        response.read()
    assert len(caught.value.partial) == pytest.approx(caught.value.expected or 0, abs=1)
    assert len(kraken_rows(server)) == 100


def test_a_repeated_page_is_the_page_before(server: RunningExchange) -> None:
    server.faults([{"kind": "repeat", "match": TRADES, "skip": 1, "times": 1}])
    first = kraken_rows(server)
    agg_rows(server)
    later = str(int(SINCE) + 600 * 10**9)
    assert kraken_rows(server, later) == first
    assert kraken_rows(server, later) != first


def test_shuffled_rows_are_the_same_rows(server: RunningExchange) -> None:
    right = agg_rows(server)
    server.faults([{"kind": "shuffle", "match": AGG, "times": 1}])
    wrong = agg_rows(server)
    assert wrong != right
    assert sorted(wrong, key=lambda row: row["a"]) == right
    assert agg_rows(server) == right


@pytest.mark.parametrize("how", GARBAGE)
def test_garbage_spoils_the_number_of_rows_that_was_asked(server: RunningExchange, how: str) -> None:
    for rows in (kraken_rows, agg_rows):
        right = rows(server)
        server.faults([{"kind": "garbage", "rows": 2, "garbage": [how]}])
        wrong = rows(server)
        server.faults([])
        assert len(wrong) == len(right)
        assert sum(one != other for one, other in zip(wrong, right, strict=True)) == 2


def test_garbage_may_stand_beside_the_true_rows(server: RunningExchange) -> None:
    right = kraken_rows(server)
    server.faults([{"kind": "garbage", "rows": 3, "garbage": ["negative_price"], "insert": True}])
    wrong = kraken_rows(server)
    assert [row for row in wrong if not row[0].startswith("-")] == right
    assert len(wrong) == len(right) + 3


def test_future_rows_are_later_than_the_clock(server: RunningExchange) -> None:
    server.faults([{"kind": "garbage", "rows": 1, "garbage": ["future_time"]}])
    assert max(row[2] for row in kraken_rows(server)) > NOW.timestamp() + 80_000
    assert max(row["T"] for row in agg_rows(server)) > (NOW.timestamp() + 80_000) * 1_000


def test_void_rows_are_binances(server: RunningExchange) -> None:
    server.faults([{"kind": "garbage", "rows": 1, "garbage": ["void"]}])
    (void,) = (row for row in agg_rows(server) if row.get("X") == "NA")
    assert float(void["p"]) == float(void["q"]) == 0


def test_dropped_ids_are_missing_for_ever_or_once(server: RunningExchange) -> None:
    right = kraken_rows(server)
    ids = [row[6] for row in right]
    gap = [[ids[10], ids[14]]]
    server.faults([{"kind": "drop", "match": TRADES, "ids": gap}])
    for _ in range(2):
        assert [row[6] for row in kraken_rows(server)] == ids[:10] + ids[15:]
    server.faults([{"kind": "drop", "match": TRADES, "ids": gap, "once": True}])
    assert len(kraken_rows(server)) == 95
    assert kraken_rows(server) == right


def test_a_fraction_is_dropped_by_id_always_the_same(server: RunningExchange) -> None:
    right = agg_rows(server)
    server.faults([{"kind": "drop", "match": AGG, "fraction": 0.2}])
    left = agg_rows(server)
    assert 60 < len(left) < 95
    assert agg_rows(server) == left
    assert all(row in right for row in left)


def test_ids_that_are_not_served_are_nowhere_but_in_the_candles(
    exchange_server: Callable[..., RunningExchange],
) -> None:
    whole, holed = exchange_server(now=NOW), exchange_server(now=NOW)
    right = kraken_rows(whole, count=20)
    holed.hide("kraken:BTC/USD", [(right[5][6], right[9][6])])
    assert kraken_rows(holed, count=15) == right[:5] + right[10:]
    query = {"pair": "XBTUSD", "interval": 1}
    candles = [get(f"{one.kraken}/0/public/OHLC", query) for one in (whole, holed)]
    assert candles[0] == candles[1]


def test_a_hidden_id_is_missing_from_the_archive_too(server: RunningExchange) -> None:
    rows = csv(get_bytes(f"{server.archive}/{ZIP}"))
    hidden = int(rows[3].split(",")[0])
    send(f"{server.url}/control/not_served", {"binance:BTC/EUR": [[hidden, hidden]]})
    assert csv(get_bytes(f"{server.archive}/{ZIP}")) == rows[:3] + rows[4:]


def csv(body: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return archive.read(archive.namelist()[0]).decode().splitlines()


def test_a_wrong_checksum_does_not_fit(server: RunningExchange) -> None:
    server.faults([{"kind": "checksum", "match": "CHECKSUM", "times": 1}])
    digest = hashlib.sha256(get_bytes(f"{server.archive}/{ZIP}")).hexdigest()
    assert get_bytes(f"{server.archive}/{ZIP}.CHECKSUM").split()[0].decode() != digest
    assert get_bytes(f"{server.archive}/{ZIP}.CHECKSUM").split()[0].decode() == digest


def test_an_archive_with_spoiled_rows_has_the_checksum_of_what_is_served(server: RunningExchange) -> None:
    right = csv(get_bytes(f"{server.archive}/{ZIP}"))
    ids = [int(line.split(",")[0]) for line in right]
    server.faults(
        [
            {"kind": "drop", "match": "BTCEUR-aggTrades", "ids": [[ids[4], ids[6]]]},
            {"kind": "garbage", "match": "BTCEUR-aggTrades", "rows": 6},
        ]
    )
    body = get_bytes(f"{server.archive}/{ZIP}")
    assert len(csv(body)) == len(right) - 3
    assert len(set(csv(body)) - set(right)) == 6
    assert (
        get_bytes(f"{server.archive}/{ZIP}.CHECKSUM").split()[0].decode() == hashlib.sha256(body).hexdigest()
    )


def test_a_cut_archive_can_be_served(server: RunningExchange) -> None:
    server.faults([{"kind": "cut", "match": r"\.zip$"}])
    with pytest.raises(http.client.IncompleteRead):
        get_bytes(f"{server.archive}/{ZIP}")


def test_faults_are_set_counted_and_cleared_through_the_control_endpoint(server: RunningExchange) -> None:
    url = f"{server.url}/control/faults"
    send(url, [{"kind": "shuffle", "match": "XBTUSD", "skip": 1, "times": 1}])
    for _ in range(3):
        kraken_rows(server)
    (count,) = get(url)
    assert (count["matched"], count["applied"]) == (3, 1)
    assert send(url, None, "DELETE") == []
    assert get(url) == []


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "slow"},
        {"kind": "429", "match": "("},
        {"kind": "429", "often": 1},
        "429",
        {"kind": "drop", "ids": [1]},
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_its_field(server: RunningExchange, spec: Any) -> None:
    with pytest.raises(UsageError):
        parse_faults([spec])
    with pytest.raises(HTTPError) as caught:
        send(f"{server.url}/control/faults", [spec])
    with caught.value as response:
        assert response.status == 400


def test_a_misspelt_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'garbage'"):
        parse_faults([{"kind": "garbadge"}])


@given(seed=st.integers(0, 10_000), probability=st.floats(0.05, 0.95), skip=st.integers(0, 5))
def test_which_requests_a_fault_meets_depends_on_its_seed_only(
    seed: int, probability: float, skip: int
) -> None:
    spec = {"kind": "500", "seed": seed, "probability": probability, "skip": skip, "times": 4}

    def met() -> list[bool]:
        book = FaultBook(parse_faults([spec]))
        return [bool(book.hits("/x")) for _ in range(30)]

    assert met() == met()
    assert not any(met()[:skip])
    assert sum(met()) <= 4
