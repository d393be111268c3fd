"""History sources: one module an exchange or file format, one contract (:mod:`marketdata.sources.base`)."""
