DROP TABLE trade;
DROP TYPE trade_side;
