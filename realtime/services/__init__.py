"""Services that run for ever: feeds into Kafka, candles out of trades, sinks into the store."""
