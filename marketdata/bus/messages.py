"""Messages: bytes <-> frames (pure). What is in them is described in ``docs/kafka.md``.

======================  ==========================================  =================================
topic                   value                                       schema header
======================  ==========================================  =================================
trades, backfill, late  a trade (JSON), a batch of trades (Arrow)   ``trade/1``
candles                 a candle (JSON), a batch of them (Arrow)    ``candle/1``
dead-letter             the bytes that were refused                 as they were, and where they stood
======================  ==========================================  =================================
"""

from marketdata.bus.candle_messages import (
    ARROW_CANDLES,
    CANDLE,
    JSON_CANDLES,
    UPDATE_SCHEMA,
    CandleBatch,
    DecodedCandles,
    decode_candles,
    encode_candles,
)
from marketdata.bus.envelope import (
    DeadLetter,
    Format,
    Headers,
    Message,
    Reject,
    Stored,
    headers_of,
    key_of,
    market_of,
)
from marketdata.bus.trade_messages import (
    ARROW_TRADES,
    JSON_TRADES,
    TRADE,
    Batch,
    Decoded,
    decode_trades,
    encode_trades,
)

__all__ = [
    "ARROW_CANDLES",
    "ARROW_TRADES",
    "CANDLE",
    "JSON_CANDLES",
    "JSON_TRADES",
    "TRADE",
    "UPDATE_SCHEMA",
    "Batch",
    "CandleBatch",
    "DeadLetter",
    "Decoded",
    "DecodedCandles",
    "Format",
    "Headers",
    "Message",
    "Reject",
    "Stored",
    "decode_candles",
    "decode_trades",
    "encode_candles",
    "encode_trades",
    "headers_of",
    "key_of",
    "market_of",
]
