"""What assets, checks and sensors share: the settings, the lake and the clock."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from marketdata.lake import Lake
from marketdata.settings import Settings


class Platform(dg.ConfigurableResource[Any]):
    """The lake and the settings of this process; the only place here that reads the clock."""

    lake_url: str | None = Field(
        default=None,
        description="A path or s3://bucket/prefix. Default: MARKETDATA_LAKE, else HOME/lake.",
    )

    _settings: Settings | None = PrivateAttr(default=None)
    _lake: Lake | None = PrivateAttr(default=None)

    @property
    def settings(self) -> Settings:
        """The settings, read from the environment once."""
        if self._settings is None:
            given = {} if self.lake_url is None else {"lake": self.lake_url}
            self._settings = Settings.load(**given)
        return self._settings

    @property
    def lake(self) -> Lake:
        """The lake, opened once."""
        if self._lake is None:
            self._lake = Lake.open(self.settings.lake_url, settings=self.settings)
        return self._lake

    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)
