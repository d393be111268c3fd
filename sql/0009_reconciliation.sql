-- What the stream had said of a candle before something better took its place: kept so that it can be compared.

CREATE TABLE candle_streamed (
    market_id              smallint    NOT NULL,
    open_time              timestamptz NOT NULL,
    open                   double precision NOT NULL,
    high                   double precision NOT NULL,
    low                    double precision NOT NULL,
    close                  double precision NOT NULL,
    volume                 double precision NOT NULL,
    quote_volume           double precision,
    trade_count            bigint,
    taker_buy_volume       double precision,
    taker_buy_quote_volume double precision,
    first_trade_id         bigint,
    last_trade_id          bigint,
    first_trade_time       timestamptz,
    last_trade_time        timestamptz,
    revision               integer     NOT NULL,
    coverage               text        NOT NULL,
    kept_at                timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (market_id, open_time)
);

-- How a day compares: once what was streamed with what its trades say, once that with the exchange's own candles.
CREATE TABLE reconciliation (
    market_id         smallint NOT NULL REFERENCES market,
    day               date     NOT NULL,
    compared_with     text     NOT NULL CHECK (compared_with IN ('stream', 'exchange')),
    compared          bigint   NOT NULL,
    equal             bigint   NOT NULL,
    late_trade        bigint   NOT NULL,
    missing           bigint   NOT NULL,
    extra             bigint   NOT NULL,
    different_volume  bigint   NOT NULL,
    different_price   bigint   NOT NULL,
    partial           bigint   NOT NULL,
    wrong             bigint   NOT NULL,
    close_drift_max   double precision NOT NULL,
    close_drift_mean  double precision NOT NULL,
    volume_drift_max  double precision NOT NULL,
    volume_drift_mean double precision NOT NULL,
    volume_drift_day  double precision NOT NULL,
    reconciled_at     timestamptz NOT NULL,
    PRIMARY KEY (market_id, day, compared_with)
);
COMMENT ON COLUMN reconciliation.wrong IS 'Candles that stay wrong: neither repaired nor explained';
COMMENT ON COLUMN reconciliation.volume_drift_day IS 'Percent of the volume of the day; the others are of a candle';

CREATE VIEW v_reconciliation AS
SELECT
    market.exchange, market.symbol, day, compared_with, compared, equal, late_trade, missing, extra, different_volume,
    different_price, partial, wrong, close_drift_max, close_drift_mean, volume_drift_max, volume_drift_mean,
    volume_drift_day, reconciled_at
FROM reconciliation JOIN market USING (market_id);
