-- What is odd about a day's trades, one row a finding, in the order of time.

CREATE TABLE finding (
    market_id  smallint NOT NULL REFERENCES market,
    day        date     NOT NULL,
    number     integer  NOT NULL,
    rule       text     NOT NULL,
    time       timestamptz NOT NULL,
    until      timestamptz NOT NULL,
    trade_id   bigint,
    value      double precision NOT NULL,
    suspicious boolean  NOT NULL,
    detail     text     NOT NULL,
    PRIMARY KEY (market_id, day, number)
);

CREATE VIEW v_finding AS
SELECT
    market.exchange, market.symbol, finding.day, finding.rule, finding.time, finding.until, finding.trade_id,
    finding.value, finding.suspicious, finding.detail
FROM finding JOIN market USING (market_id);
