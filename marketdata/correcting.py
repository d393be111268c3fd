"""Candles put right wherever they are read: in the store, in its wider intervals, and for live readers.

Each step can be repeated, and the order makes a killed run safe to start again: the store first, where a
candle that says something else gets a higher revision and one that is right keeps its own; then the wider
intervals, of which the store has noted that they are stale; then the topic. A second run finds the store
right and sends the same revisions once more, and readers drop what they have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from marketdata.candle import CANDLE_SCHEMA
from marketdata.market import Market
from marketdata.settings import Settings

# Who is not there within this time is told later, by the next run.
_TIMEOUT_S = 10.0
_OPTIONAL = ("taker_buy_volume", "taker_buy_quote_volume")


@dataclass(frozen=True, slots=True)
class Corrected:
    """What a correction came to.

    Attributes:
        candles: those given that hold in the store now: CANDLE_SCHEMA with ``revision``, ``source`` and
            ``coverage``.
        changed: how many of them are new there or differ from what was held; ``removed``: candles that were
            taken away.
        published: how many went out on the topic of candles.
        unpublished: how many could not: an exchange's own candle has no ids of trades, and no reader can be
            told that a candle is not there.
    """

    candles: pl.DataFrame
    changed: int = 0
    removed: int = 0
    published: int = 0
    unpublished: int = 0


def correct(
    settings: Settings,
    market: Market,
    candles: pl.DataFrame,
    *,
    source: str = "repair",
    coverage: str = "complete",
    replace: bool = True,
    remove: Sequence[datetime] = (),
) -> Corrected:
    """Put one-minute candles right in the store, refresh wider ones and tell live readers.

    Readers of :meth:`marketdata.Provider.live` yield a candle they had otherwise once more, marked as a
    correction. Candles narrower than a minute are not in the store, and readers of those are not told.

    Args:
        candles: CANDLE_SCHEMA, one minute wide, each ``open_time`` once: what is right. All of them are
            published, for the caller gives those only of which readers have heard something else.
        source: as in the store: ``repair``, ``batch``, or ``exchange`` for the exchange's own.
        coverage: ``complete``, ``gaps``, ``unknown`` or ``partial``.
        replace: whether candles that are held may be replaced; otherwise only holes are filled.
        remove: ``open_time`` of candles that should not be there.

    Returns:
        What was done; nothing without a store, for revisions are counted there.

    Raises:
        TransientError: the store or a broker is away; run it again.
        StorageError, UsageError, PermanentError: the store or the cluster refuses.
    """
    none = Corrected(candles.clear())
    if settings.database_url is None or (candles.is_empty() and not remove):
        return none
    import psycopg  # the store is an optional part  # noqa: PLC0415

    from marketdata.store import corrections, engine, wider  # noqa: PLC0415

    with engine.connect(settings, autocommit=True) as connection:
        try:
            with connection.transaction():
                held, changed, removed = corrections.put_right(
                    connection,
                    market,
                    candles.select(CANDLE_SCHEMA.names()).cast(dict(CANDLE_SCHEMA)),  # type: ignore[arg-type]
                    source=source,
                    coverage=coverage,
                    replace=replace,
                    remove=remove,
                )
            # Marks that are there for other reasons, of a run that was killed, are dealt with too.
            wider.refresh(connection)
        except psycopg.Error as error:
            raise engine.translate(error) from None
    published = publish(settings, market, held)
    return Corrected(held, changed, removed, published, len(held) - published + len(remove))


def publish(settings: Settings, market: Market, candles: pl.DataFrame) -> int:
    """Send final candles with their revisions to the topic of candles; returns how many went out.

    Args:
        candles: CANDLE_SCHEMA of one-minute candles, ``revision`` and ``coverage``. Those that do not say
            which trades they are made of are left out: nothing on the topic is without.

    Raises:
        UsageError: Kafka's client is not installed, or the topic is not there.
        TransientError: no broker answers; what has arrived may arrive again.
    """
    if settings.kafka_bootstrap_servers is None or candles.is_empty():
        return 0
    from marketdata.bus.messages import JSON_CANDLES, UPDATE_SCHEMA, encode_candles, key_of  # noqa: PLC0415
    from marketdata.bus.producer import Producer  # noqa: PLC0415
    from marketdata.bus.topics import Topics  # noqa: PLC0415

    required = [name for name in CANDLE_SCHEMA if name not in _OPTIONAL]
    told = candles.filter(pl.all_horizontal(pl.col(required).is_not_null()))
    if told.is_empty():
        return 0
    updates = told.with_columns(
        pl.lit("1m").alias("interval"),
        pl.col("revision").cast(pl.Int32),
        pl.lit(value=True).alias("final"),
        (pl.col("coverage") == "partial").alias("partial"),
    ).select(UPDATE_SCHEMA.names())
    topic = Topics.of(settings).candles
    producer = Producer(settings, linger_ms=0, timeout_s=_TIMEOUT_S)
    try:
        producer.check_topic(topic, _TIMEOUT_S)
        sent = producer.send(topic, key_of(market), encode_candles(updates), JSON_CANDLES)
        producer.flush()
    finally:
        producer.close()
    return sent
