"""The bus: trades and candles over Kafka. ``confluent_kafka`` is imported here only, when it is used.

:mod:`~marketdata.bus.messages` (bytes <-> frames) is pure; ``docs/kafka.md`` describes topics and messages.
"""
