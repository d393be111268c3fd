SELECT create_hypertable('trade', by_range('time', INTERVAL '1 day'), create_default_indexes => false);

ALTER TABLE trade SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'market_id',
    timescaledb.compress_orderby = 'time, trade_id'
);
