DROP VIEW v_reconciliation;
DROP TABLE reconciliation;
DROP TABLE candle_streamed;
