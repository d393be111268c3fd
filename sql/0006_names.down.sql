DROP VIEW v_candle_1m, v_candle_5m, v_candle_15m, v_candle_30m, v_candle_1h, v_candle_4h, v_candle_12h, v_candle_1d,
    v_candle_1w;
DROP VIEW v_coverage;
DROP VIEW v_trade;
