DROP FUNCTION coverage_rank(text);
DROP TABLE candle;
