DROP TABLE candle_stale;
DROP VIEW candle_1m;
