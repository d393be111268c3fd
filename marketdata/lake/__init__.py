"""The lake: Parquet on a local path or s3://, one file a market and UTC day, each with its own manifest."""

from marketdata.lake.lake import Lake
from marketdata.lake.stage import Stage

__all__ = ["Lake", "Stage"]
