-- The same with exchange and symbol instead of a number, for people.

CREATE VIEW v_trade AS
SELECT market.exchange, market.symbol, trade.trade_id, trade.time, trade.price, trade.amount, trade.side, trade.fills
FROM trade JOIN market USING (market_id);

CREATE VIEW v_coverage AS
SELECT
    market.exchange, market.symbol, coverage.day, coverage.status, coverage.reason, coverage.rows, coverage.fills,
    coverage.first_time, coverage.last_time, coverage.first_id, coverage.last_id, coverage.missing,
    coverage.not_served, coverage.rejected, coverage.source, coverage.ids, coverage.loaded_at
FROM coverage JOIN market USING (market_id);

DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['1m', '5m', '15m', '30m', '1h', '4h', '12h', '1d', '1w'] LOOP
        EXECUTE format($sql$
            CREATE VIEW %I AS
            SELECT
                market.exchange, market.symbol, open_time, open, high, low, close, volume, quote_volume, trade_count,
                quote_volume / nullif(volume, 0) AS vwap,
                taker_buy_volume, taker_buy_quote_volume, first_trade_id, last_trade_id, first_trade_time,
                last_trade_time, revision, source, coverage
            FROM %I JOIN market USING (market_id)
            $sql$, 'v_candle_' || name, 'candle_' || name);
    END LOOP;
END
$do$;
