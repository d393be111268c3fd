-- Markets by a small number: two bytes in every row instead of two words.

CREATE TABLE market (
    market_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange  text NOT NULL,
    symbol    text NOT NULL,
    UNIQUE (exchange, symbol)
);
COMMENT ON TABLE market IS 'A symbol on an exchange, as in ccxt: kraken, BTC/USD';

-- What the rest of the schema remembers of itself: one row.
CREATE TABLE store_state (
    only_row               boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    refresh_lag            interval NOT NULL DEFAULT '10 minutes',
    candles_dropped_before timestamptz
);
INSERT INTO store_state DEFAULT VALUES;
COMMENT ON COLUMN store_state.refresh_lag IS 'Candles younger than this are never materialised; readers fold them';
COMMENT ON COLUMN store_state.candles_dropped_before IS 'Retention has removed one-minute candles before this time';
