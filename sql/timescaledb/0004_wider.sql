-- Wider candles as continuous aggregates: 1m -> 5m 15m 30m 1h, 1h -> 4h 12h 1d 1w. Weeks start on Monday.

DO $do$
DECLARE
    wide record;
BEGIN
    FOR wide IN
        SELECT * FROM (VALUES
            ('5m', '5 minutes', 'candle'), ('15m', '15 minutes', 'candle'), ('30m', '30 minutes', 'candle'),
            ('1h', '1 hour', 'candle'), ('4h', '4 hours', 'candle_1h'), ('12h', '12 hours', 'candle_1h'),
            ('1d', '1 day', 'candle_1h'), ('1w', '7 days', 'candle_1h')
        ) AS rows (name, width, narrow)
    LOOP
        EXECUTE format($sql$
            CREATE MATERIALIZED VIEW %I
            WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
            SELECT
                market_id,
                time_bucket(INTERVAL %L, open_time) AS open_time,
                first(open, open_time) AS open,
                max(high) AS high,
                min(low) AS low,
                last(close, open_time) AS close,
                sum(volume) AS volume,
                CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume) END AS quote_volume,
                CASE WHEN count(trade_count) = count(*) THEN sum(trade_count)::bigint END AS trade_count,
                CASE WHEN count(taker_buy_volume) = count(*) THEN sum(taker_buy_volume) END
                    AS taker_buy_volume,
                CASE WHEN count(taker_buy_quote_volume) = count(*) THEN sum(taker_buy_quote_volume) END
                    AS taker_buy_quote_volume,
                first(first_trade_id, open_time) AS first_trade_id,
                last(last_trade_id, open_time) AS last_trade_id,
                first(first_trade_time, open_time) AS first_trade_time,
                last(last_trade_time, open_time) AS last_trade_time,
                max(revision) AS revision,
                CASE WHEN min(source) = max(source) THEN min(source) ELSE 'mixed' END AS source,
                (ARRAY['complete', 'unknown', 'gaps', 'partial'])[max(coverage_rank(coverage))] AS coverage
            FROM %I
            GROUP BY 1, 2
            WITH NO DATA
            $sql$, 'candle_' || wide.name, wide.width, wide.narrow);
    END LOOP;
END
$do$;

-- Whatever changes candles older than the lag marks their range, in the same transaction. Younger ones lie
-- behind all that is materialised: real-time aggregation folds them when they are read.
CREATE FUNCTION candle_mark_stale() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS
$fn$
BEGIN
    INSERT INTO candle_stale (market_id, start_time, end_time)
    SELECT market_id, min(open_time), max(open_time) + INTERVAL '1 minute'
    FROM changed
    WHERE open_time < clock_timestamp() - (SELECT refresh_lag FROM store_state)
    GROUP BY market_id
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$fn$;

CREATE TRIGGER candle_added AFTER INSERT ON candle
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION candle_mark_stale();
CREATE TRIGGER candle_moved_from AFTER UPDATE ON candle
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION candle_mark_stale();
CREATE TRIGGER candle_moved_to AFTER UPDATE ON candle
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION candle_mark_stale();

-- Where a table can be compressed, TimescaleDB does not hand the rows of a DELETE over together: one by one then,
-- and a mark a day.
CREATE FUNCTION candle_mark_removed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS
$fn$
DECLARE
    day timestamptz := date_trunc('day', OLD.open_time, 'UTC');
BEGIN
    INSERT INTO candle_stale (market_id, start_time, end_time)
    VALUES (OLD.market_id, day, day + INTERVAL '1 day')
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$fn$;

CREATE TRIGGER candle_removed AFTER DELETE ON candle
    FOR EACH ROW EXECUTE FUNCTION candle_mark_removed();

CREATE FUNCTION candle_mark_emptied() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS
$fn$
BEGIN
    INSERT INTO candle_stale (market_id, start_time, end_time)
    SELECT market_id, '2009-01-01 00:00:00+00', clock_timestamp() FROM market;
    RETURN NULL;
END
$fn$;

CREATE TRIGGER candle_emptied AFTER TRUNCATE ON candle
    FOR EACH STATEMENT EXECUTE FUNCTION candle_mark_emptied();

-- Retention of one-minute candles, run as a job. Their wider candles are to stay, so first these are materialised,
-- and candles whose change the wider ones do not know yet are not removed. Nothing is refreshed before
-- candles_dropped_before ever again: that would make wider candles of what is no longer there.
CREATE PROCEDURE candle_retain(job_id integer, config jsonb)
    LANGUAGE plpgsql AS
$fn$
DECLARE
    place text := config ->> 'schema';
    dropped timestamptz;
    until timestamptz;
    name text;
BEGIN
    SELECT max(range_end) INTO until
    FROM timescaledb_information.chunks
    WHERE hypertable_schema = place AND hypertable_name = 'candle'
        AND range_end <= now() - (config ->> 'drop_after')::interval;
    IF until IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT candles_dropped_before FROM %I.store_state', place) INTO dropped;
    IF dropped IS NULL OR dropped < until THEN
        FOREACH name IN ARRAY ARRAY['5m', '15m', '30m', '1h'] LOOP
            CALL refresh_continuous_aggregate(format('%I.%I', place, 'candle_' || name)::regclass, dropped, until);
        END LOOP;
    END IF;
    COMMIT;
    -- From here to the end no candle is written: what was before the lock has left its mark.
    EXECUTE format('LOCK TABLE %I.candle IN SHARE ROW EXCLUSIVE MODE', place);
    EXECUTE format('SELECT min(start_time) FROM %I.candle_stale', place) INTO dropped;
    IF dropped < until THEN
        RAISE LOG 'candles before % stay until their wider candles are refreshed', until;
        RETURN;
    END IF;
    PERFORM drop_chunks(format('%I.candle', place)::regclass, older_than => until);
    EXECUTE format(
        'UPDATE %I.store_state SET candles_dropped_before = greatest(candles_dropped_before, %L::timestamptz)',
        place, until
    );
END
$fn$;

-- Candles that are there before this step.
INSERT INTO candle_stale (market_id, start_time, end_time)
SELECT market_id, min(open_time), max(open_time) + INTERVAL '1 minute' FROM candle GROUP BY market_id;
