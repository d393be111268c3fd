-- Every interval under a name of its own: candle_1m here, the wider ones beside.

CREATE VIEW candle_1m AS SELECT * FROM candle;

-- Ranges whose wider candles do not yet know of a change. Written with the change, removed when they do. One row
-- says it for a transaction; another transaction says it again, for the first may have been dealt with by then.
CREATE TABLE candle_stale (
    stale_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    market_id  smallint    NOT NULL,
    start_time timestamptz NOT NULL,
    end_time   timestamptz NOT NULL,
    changed_in xid8        NOT NULL DEFAULT pg_current_xact_id(),
    UNIQUE (market_id, start_time, end_time, changed_in)
);
