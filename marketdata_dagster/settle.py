"""How a step over many partitions ends: metadata for each, and the good ones recorded when others fail."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import dagster as dg

from marketdata.errors import MarketDataError, TransientError
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.metadata import Metadata

# What a failure says of itself, for whoever would start it again.
RETRY, MAY_HELP, CANNOT_HELP = "a retry", "may help", "cannot help"
_MAX_RETRIES = 2
_PAUSE_S = 15.0


@dataclass
class Outcome:
    """What a step has made, by partition, and what it could not."""

    made: dict[Job, Metadata] = field(default_factory=dict)
    failed: dict[Job, MarketDataError] = field(default_factory=dict)


def settle(context: dg.AssetExecutionContext, outcome: Outcome) -> dg.MaterializeResult[None]:
    """Record every partition of the step.

    A step that fails records nothing by itself, so the good partitions of a failing step are logged before
    it fails: they stay done and only the others are run again.

    Raises:
        dagster.RetryRequested: something failed that a retry may help; what is done is skipped then.
        dagster.Failure: something failed.
    """
    if not outcome.failed:
        for job, metadata in outcome.made.items():
            context.add_asset_metadata(dict(metadata), partition_key=job.key)
        return dg.MaterializeResult()
    transient = [error for error in outcome.failed.values() if isinstance(error, TransientError)]
    if transient and context.retry_number < _MAX_RETRIES:
        pause = max([error.retry_after or 0.0 for error in transient] + [_PAUSE_S])
        context.log.warning(f"{_sentence(outcome.failed)} Trying again in {pause:.0f} s.")
        raise dg.RetryRequested(max_retries=_MAX_RETRIES, seconds_to_wait=pause)
    for job, metadata in outcome.made.items():
        context.log_event(
            dg.AssetMaterialization(context.asset_key, partition=job.key, metadata=dict(metadata))
        )
    raise dg.Failure(
        _sentence(outcome.failed),
        metadata={
            RETRY: MAY_HELP if transient else CANNOT_HELP,
            **{job.key: str(error) for job, error in sorted(outcome.failed.items())[:100]},
        },
        allow_retries=False,
    )


def _sentence(failed: Mapping[Job, MarketDataError]) -> str:
    job, error = min(failed.items())
    others = f" {len(failed) - 1} more days failed." if len(failed) > 1 else ""
    return f"{job.market} {job.day}: {error}{others}"
