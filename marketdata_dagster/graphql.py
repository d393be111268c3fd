"""A client for the few calls of Dagster's GraphQL API that launch a backfill and watch it, as the UI does."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from marketdata.errors import MarketDataError, PermanentError, TransientError
from marketdata.market import Market
from marketdata_dagster.defs.partitions import Job

ASSETS = ("trades", "candles", "exchange_candles")
STORE_ASSETS = ("store_trades", "store_candles")  # where MARKETDATA_DATABASE_URL is set
_SUCCEEDED = "COMPLETED_SUCCESS"
_OVER = {_SUCCEEDED, "COMPLETED_FAILED", "COMPLETED", "FAILED", "CANCELED"}
_RARELY_S = 5.0

_LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}"""
_STATUS = """
query Status($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on Error { message }
    ... on PartitionBackfill {
      status
      error { message }
      unfinishedRuns { id status }
      assetBackfillData {
        assetBackfillStatuses {
          ... on AssetPartitionsStatusCounts {
            assetKey { path }
            numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed numPartitionsInProgress
          }
        }
      }
    }
  }
}"""
_LOCATIONS = """
query Locations {
  workspaceOrError {
    ... on Workspace {
      locationEntries { name loadStatus locationOrLoadError { __typename ... on PythonError { message } } }
    }
  }
}"""


@dataclass(frozen=True, slots=True)
class Backfill:
    """How far a backfill is, in partitions of all its assets."""

    id: str
    status: str
    targeted: int
    materialized: int
    failed: int
    in_progress: int
    error: str | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status in _OVER

    @property
    def succeeded(self) -> bool:
        """Whether everything it was asked for is there."""
        return self.status == _SUCCEEDED


class GraphQL:
    """The GraphQL endpoint of a webserver, ``http://127.0.0.1:3000``."""

    def __init__(self, url: str) -> None:
        """Nothing is asked yet."""
        self.url = url.rstrip("/")

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Send a query and return its data.

        Raises:
            TransientError: the webserver does not answer.
            PermanentError: it answers with errors.
        """
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urlopen(request, timeout=60) as response:  # noqa: S310
                answer = json.load(response)
        except HTTPError as error:
            msg = f"{self.url}/graphql answers {error.code}: {error.read(300).decode(errors='replace')}"
            raise PermanentError(msg) from error
        except (URLError, OSError, ValueError) as error:
            msg = f"{self.url}/graphql does not answer: {error}."
            raise TransientError(msg, hint="Is the webserver up?") from error
        if answer.get("errors"):
            msg = f"{self.url}/graphql: {answer['errors'][0]['message']}"
            raise PermanentError(msg)
        data: dict[str, Any] = answer["data"]
        return data

    def launch_backfill(
        self,
        markets: Iterable[Market],
        start: date,
        end: date,
        *,
        assets: Sequence[str] = ASSETS,
        title: str | None = None,
    ) -> str:
        """Launch one backfill of the days ``[start, end)`` of these markets; returns its id.

        Raises:
            PermanentError: a market or day is no partition.
        """
        last = end - timedelta(days=1)
        by_exchange: dict[str, list[dict[str, str]]] = {}
        for market in markets:
            one = {"start": Job(market, start).key, "end": Job(market, last).key}
            by_exchange.setdefault(market.exchange, []).append(one)
        params: dict[str, Any] = {
            "partitionsByAssets": [
                {"assetKey": {"path": [exchange, asset]}, "partitions": {"ranges": ranges}}
                for exchange, ranges in by_exchange.items()
                for asset in assets
            ]
        }
        if title is not None:
            params["title"] = title
        result = self.ask(_LAUNCH, params=params)["launchPartitionBackfill"]
        if "backfillId" not in result:
            msg = f"The backfill was refused: {result.get('message', result['__typename'])}"
            raise PermanentError(msg)
        return str(result["backfillId"])

    def backfill(self, backfill_id: str) -> Backfill:
        """How far a backfill is.

        Raises:
            PermanentError: there is no such backfill.
        """
        found = self.ask(_STATUS, id=backfill_id)["partitionBackfillOrError"]
        if "status" not in found:
            raise PermanentError(found.get("message", f"There is no backfill {backfill_id!r}."))
        counts = (found["assetBackfillData"] or {}).get("assetBackfillStatuses", [])
        return Backfill(
            id=backfill_id,
            status=found["status"],
            targeted=sum(count["numPartitionsTargeted"] for count in counts),
            materialized=sum(count["numPartitionsMaterialized"] for count in counts),
            failed=sum(count["numPartitionsFailed"] for count in counts),
            in_progress=sum(count["numPartitionsInProgress"] for count in counts),
            error=(found["error"] or {}).get("message"),
        )

    def wait(
        self,
        backfill_id: str,
        *,
        progress: Callable[[Backfill], None] | None = None,
        timeout_s: float = 600.0,
        every_s: float = 1.0,
    ) -> Backfill:
        """Wait until a backfill has ended, well or not; ``progress`` is called at each look.

        Each look costs the webserver some work, which grows with the partitions: a long backfill is looked at
        less often, after a twentieth of the time it has taken so far.

        Raises:
            TransientError: it has not ended after ``timeout_s``.
        """
        began = time.monotonic()
        deadline = began + timeout_s
        while True:
            now = self.backfill(backfill_id)
            if progress is not None:
                progress(now)
            if now.over:
                return now
            if time.monotonic() > deadline:
                msg = f"The backfill {backfill_id} is {now.status} after {timeout_s:.0f} s."
                raise TransientError(msg, hint=f"Look at {self.url}/runs/b/{backfill_id}.")
            time.sleep(max(every_s, min(_RARELY_S, (time.monotonic() - began) / 20)))

    def load_errors(self) -> list[str] | None:
        """What keeps the code location from loading; empty when it is loaded, ``None`` while it loads."""
        try:
            entries = self.ask(_LOCATIONS)["workspaceOrError"].get("locationEntries", [])
        except MarketDataError:
            return None
        if not entries or any(
            entry["loadStatus"] != "LOADED" or entry["locationOrLoadError"] is None for entry in entries
        ):
            return None
        return [
            entry["locationOrLoadError"]["message"]
            for entry in entries
            if entry["locationOrLoadError"]["__typename"] == "PythonError"
        ]
