-- One-minute candles: the only ones that are written. Wider ones follow from them.

CREATE TABLE candle (
    market_id              smallint    NOT NULL,
    open_time              timestamptz NOT NULL,
    open                   double precision NOT NULL,
    high                   double precision NOT NULL,
    low                    double precision NOT NULL,
    close                  double precision NOT NULL,
    volume                 double precision NOT NULL,
    quote_volume           double precision,
    trade_count            bigint,
    taker_buy_volume       double precision,
    taker_buy_quote_volume double precision,
    first_trade_id         bigint,
    last_trade_id          bigint,
    first_trade_time       timestamptz,
    last_trade_time        timestamptz,
    revision               integer NOT NULL DEFAULT 0,
    source                 text    NOT NULL
        CHECK (source IN ('batch', 'stream', 'exchange', 'import', 'repair')),
    coverage               text    NOT NULL CHECK (coverage IN ('complete', 'gaps', 'unknown', 'partial')),
    PRIMARY KEY (market_id, open_time)
);
COMMENT ON COLUMN candle.revision IS 'A candle issued again after a late trade or a repair has a higher one';
COMMENT ON COLUMN candle.first_trade_id IS 'Null, as are the other three, where an exchange served the candle';

-- Of several candles the worst word counts. A partial candle lacks trades for certain; one of a day with gaps may.
CREATE FUNCTION coverage_rank(coverage text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE coverage WHEN 'complete' THEN 1 WHEN 'unknown' THEN 2 WHEN 'gaps' THEN 3 ELSE 4 END;
