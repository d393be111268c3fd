-- Wider candles as tables that a trigger keeps exact: 1m -> 5m -> 15m -> 30m -> 1h -> 4h -> 12h -> 1d -> 1w.
-- Weeks start on Monday: 2000-01-03 was one, and every narrower width divides a day.

DO $do$
DECLARE
    wide record;
    steps text := '';
BEGIN
    FOR wide IN
        SELECT * FROM (VALUES
            ('5m', '5 minutes', '1m'), ('15m', '15 minutes', '5m'), ('30m', '30 minutes', '15m'),
            ('1h', '1 hour', '30m'), ('4h', '4 hours', '1h'), ('12h', '12 hours', '4h'),
            ('1d', '1 day', '12h'), ('1w', '7 days', '1d')
        ) AS rows (name, width, narrow)
    LOOP
        EXECUTE format($sql$
            CREATE TABLE %I (LIKE candle INCLUDING DEFAULTS, PRIMARY KEY (market_id, open_time))
            $sql$, 'candle_' || wide.name);

        -- Folds these buckets again from the next narrower candles. Loops over the key are right for one bucket and
        -- for a hundred thousand; a plan that was made for an empty table must not be another one.
        EXECUTE format($sql$
            CREATE FUNCTION %1$I(markets smallint[], times timestamptz[], vanished boolean) RETURNS void
                LANGUAGE plpgsql SET search_path FROM CURRENT
                SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS
            $fn$
            BEGIN
                IF vanished THEN
                    DELETE FROM %2$I wide USING unnest(markets, times) AS touched (market_id, open_time)
                    WHERE wide.market_id = touched.market_id AND wide.open_time = touched.open_time
                        AND NOT EXISTS (
                            SELECT FROM %3$I narrow
                            WHERE narrow.market_id = touched.market_id
                                AND narrow.open_time >= touched.open_time
                                AND narrow.open_time < touched.open_time + INTERVAL %4$L
                        );
                END IF;
                INSERT INTO %2$I AS wide
                SELECT
                    touched.market_id, touched.open_time, opening.open, folded.high, folded.low, closing.close,
                    folded.volume, folded.quote_volume, folded.trade_count,
                    folded.taker_buy_volume, folded.taker_buy_quote_volume,
                    opening.first_trade_id, closing.last_trade_id,
                    opening.first_trade_time, closing.last_trade_time,
                    folded.revision, folded.source, folded.coverage
                FROM unnest(markets, times) AS touched (market_id, open_time)
                CROSS JOIN LATERAL (
                    SELECT
                        max(high) AS high, min(low) AS low, sum(volume) AS volume,
                        CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume) END AS quote_volume,
                        CASE WHEN count(trade_count) = count(*) THEN sum(trade_count)::bigint END AS trade_count,
                        CASE WHEN count(taker_buy_volume) = count(*) THEN sum(taker_buy_volume) END
                            AS taker_buy_volume,
                        CASE WHEN count(taker_buy_quote_volume) = count(*) THEN sum(taker_buy_quote_volume) END
                            AS taker_buy_quote_volume,
                        max(revision) AS revision,
                        CASE WHEN min(source COLLATE "C") = max(source COLLATE "C") THEN min(source COLLATE "C")
                            ELSE 'mixed' END AS source,
                        (ARRAY['complete', 'unknown', 'gaps', 'partial'])[max(coverage_rank(coverage))] AS coverage
                    FROM %3$I narrow
                    WHERE narrow.market_id = touched.market_id
                        AND narrow.open_time >= touched.open_time
                        AND narrow.open_time < touched.open_time + INTERVAL %4$L
                ) AS folded
                CROSS JOIN LATERAL (
                    SELECT open, first_trade_id, first_trade_time
                    FROM %3$I narrow
                    WHERE narrow.market_id = touched.market_id
                        AND narrow.open_time >= touched.open_time
                        AND narrow.open_time < touched.open_time + INTERVAL %4$L
                    ORDER BY narrow.open_time LIMIT 1
                ) AS opening
                CROSS JOIN LATERAL (
                    SELECT close, last_trade_id, last_trade_time
                    FROM %3$I narrow
                    WHERE narrow.market_id = touched.market_id
                        AND narrow.open_time >= touched.open_time
                        AND narrow.open_time < touched.open_time + INTERVAL %4$L
                    ORDER BY narrow.open_time DESC LIMIT 1
                ) AS closing
                ON CONFLICT (market_id, open_time) DO UPDATE SET
                    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
                    volume = excluded.volume, quote_volume = excluded.quote_volume,
                    trade_count = excluded.trade_count,
                    taker_buy_volume = excluded.taker_buy_volume,
                    taker_buy_quote_volume = excluded.taker_buy_quote_volume,
                    first_trade_id = excluded.first_trade_id, last_trade_id = excluded.last_trade_id,
                    first_trade_time = excluded.first_trade_time, last_trade_time = excluded.last_trade_time,
                    revision = excluded.revision, source = excluded.source, coverage = excluded.coverage
                WHERE wide IS DISTINCT FROM excluded;
            END
            $fn$
            $sql$, 'candle_fold_' || wide.name, 'candle_' || wide.name, 'candle_' || wide.narrow, wide.width);

        steps := steps || format($sql$
    SELECT array_agg(market_id), array_agg(open_time) INTO markets, times
    FROM (
        SELECT DISTINCT market_id, date_bin(INTERVAL %1$L, open_time, TIMESTAMPTZ '2000-01-03 00:00:00+00') AS open_time
        FROM unnest(markets, times) AS touched (market_id, open_time)
        ORDER BY 1, 2
    ) AS touched;
    PERFORM %2$I(markets, times, vanished);
            $sql$, wide.width, 'candle_fold_' || wide.name);
    END LOOP;

    -- Every wider candle over these one-minute candles, narrow to wide.
    EXECUTE format($sql$
        CREATE FUNCTION candle_fold(markets smallint[], times timestamptz[], vanished boolean) RETURNS void
            LANGUAGE plpgsql SET search_path FROM CURRENT AS
        $fn$
        BEGIN
            %s
        END
        $fn$
        $sql$, steps);
END
$do$;

-- Two writers of one hour would each fold without the other's candle: the second waits here until the first
-- has committed, and what it reads next shows that. Held to the end of the transaction, in order of market.
CREATE FUNCTION candle_lock(markets smallint[]) RETURNS void
    LANGUAGE plpgsql AS
$fn$
BEGIN
    PERFORM pg_advisory_xact_lock(1801677668, market_id)
    FROM (SELECT DISTINCT unnest(markets) AS market_id ORDER BY 1) AS touched;
END
$fn$;

CREATE FUNCTION candle_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS
$fn$
DECLARE
    markets smallint[];
    times timestamptz[];
    vanished boolean := TG_OP = 'DELETE';
BEGIN
    SELECT array_agg(market_id), array_agg(open_time) INTO markets, times
    FROM (
        SELECT DISTINCT market_id, date_bin('5 minutes', open_time, TIMESTAMPTZ '2000-01-03 00:00:00+00') AS open_time
        FROM changed
        ORDER BY 1, 2
    ) AS touched;
    IF markets IS NOT NULL THEN
        PERFORM candle_lock(markets);
        PERFORM candle_fold(markets, times, vanished);
    END IF;
    RETURN NULL;
END
$fn$;

CREATE FUNCTION candle_moved() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS
$fn$
DECLARE
    markets smallint[];
    times timestamptz[];
    vanished boolean;
BEGIN
    vanished := EXISTS (SELECT market_id, open_time FROM before EXCEPT SELECT market_id, open_time FROM changed);
    SELECT array_agg(market_id), array_agg(open_time) INTO markets, times
    FROM (
        SELECT DISTINCT market_id, date_bin('5 minutes', open_time, TIMESTAMPTZ '2000-01-03 00:00:00+00') AS open_time
        FROM (
            SELECT market_id, open_time FROM changed
            UNION ALL
            SELECT market_id, open_time FROM before WHERE vanished
        ) AS both_sides
        ORDER BY 1, 2
    ) AS touched;
    IF markets IS NOT NULL THEN
        PERFORM candle_lock(markets);
        PERFORM candle_fold(markets, times, vanished);
    END IF;
    RETURN NULL;
END
$fn$;

CREATE FUNCTION candle_emptied() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS
$fn$
BEGIN
    TRUNCATE candle_5m, candle_15m, candle_30m, candle_1h, candle_4h, candle_12h, candle_1d, candle_1w;
    RETURN NULL;
END
$fn$;

CREATE TRIGGER candle_added AFTER INSERT ON candle
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION candle_changed();
CREATE TRIGGER candle_moved AFTER UPDATE ON candle
    REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION candle_moved();
CREATE TRIGGER candle_removed AFTER DELETE ON candle
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION candle_changed();
CREATE TRIGGER candle_emptied AFTER TRUNCATE ON candle
    FOR EACH STATEMENT EXECUTE FUNCTION candle_emptied();

-- Candles that are there before this step.
DO $do$
DECLARE
    market record;
BEGIN
    FOR market IN
        SELECT array_agg(market_id) AS numbers, array_agg(open_time) AS times
        FROM (
            SELECT DISTINCT
                market_id, date_bin('5 minutes', open_time, TIMESTAMPTZ '2000-01-03 00:00:00+00') AS open_time
            FROM candle
            ORDER BY 1, 2
        ) AS touched
        GROUP BY market_id
    LOOP
        PERFORM candle_fold(market.numbers, market.times, false);
    END LOOP;
END
$do$;
