SELECT create_hypertable('candle', by_range('open_time', INTERVAL '28 days'), create_default_indexes => false);

ALTER TABLE candle SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'market_id',
    timescaledb.compress_orderby = 'open_time'
);
