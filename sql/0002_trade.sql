-- Trades. No foreign key: checking it for every row of a COPY costs more than all else. Markets are only added.

CREATE TYPE trade_side AS ENUM ('buy', 'sell');

CREATE TABLE trade (
    market_id smallint    NOT NULL,
    time      timestamptz NOT NULL,
    trade_id  bigint      NOT NULL,
    price     double precision NOT NULL,
    amount    double precision NOT NULL,
    side      trade_side,
    fills     integer     NOT NULL,
    PRIMARY KEY (market_id, time, trade_id)
);
COMMENT ON COLUMN trade.side IS 'Of the taker; null where the source does not say';
COMMENT ON COLUMN trade.fills IS 'Raw executions in the row';
