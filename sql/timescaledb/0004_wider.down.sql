DROP TRIGGER candle_added ON candle;
DROP TRIGGER candle_moved_from ON candle;
DROP TRIGGER candle_moved_to ON candle;
DROP TRIGGER candle_removed ON candle;
DROP TRIGGER candle_emptied ON candle;
SELECT delete_job(job_id) FROM timescaledb_information.jobs
WHERE proc_name = 'candle_retain' AND proc_schema = current_schema();
DROP PROCEDURE candle_retain(integer, jsonb);
DROP FUNCTION candle_mark_emptied();
DROP FUNCTION candle_mark_stale();
DROP FUNCTION candle_mark_removed();
DROP MATERIALIZED VIEW candle_1w;
DROP MATERIALIZED VIEW candle_1d;
DROP MATERIALIZED VIEW candle_12h;
DROP MATERIALIZED VIEW candle_4h;
DROP MATERIALIZED VIEW candle_1h;
DROP MATERIALIZED VIEW candle_30m;
DROP MATERIALIZED VIEW candle_15m;
DROP MATERIALIZED VIEW candle_5m;
