"""The quality profile of a day: every rule with the market's thresholds, one row a finding (pure)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from marketdata import quality
from marketdata.finding import Window, nothing_odd
from marketdata.thresholds import Thresholds
from marketdata.trade import in_order


@dataclass(frozen=True, slots=True)
class Profile:
    """What is odd about a day of one market.

    Attributes:
        findings: FINDING_SCHEMA, by time.
        rows: trades looked at. rejected: refused rows by reason.
        counts: findings by rule. suspicious: those of them that nothing explains.
    """

    findings: pl.DataFrame
    rows: int
    rejected: Mapping[str, int]
    counts: Mapping[str, int]
    suspicious: Mapping[str, int]

    @property
    def sentence(self) -> str:
        """What was found, for a person."""
        if not self.counts:
            return f"Nothing odd in {self.rows:,} trades."
        said = ", ".join(f"{count:,} x {rule}" for rule, count in self.counts.items())
        explained = sum(self.counts.values()) - sum(self.suspicious.values())
        return f"{said} in {self.rows:,} trades" + (f"; {explained:,} explained." if explained else ".")

    def with_findings(self, more: pl.DataFrame) -> "Profile":
        """The same with further findings (FINDING_SCHEMA)."""
        return _profile(pl.concat([self.findings, more]), self.rows, self.rejected)


def profile(
    trades: pl.DataFrame,
    window: Window,
    thresholds: Thresholds | None = None,
    *,
    sequential: bool,
    around: tuple[int | None, int | None] = (None, None),
    not_served: Iterable[quality.Id] = (),
    rejected: Mapping[str, int] | None = None,
    refused_ids: pl.Series | None = None,
) -> Profile:
    """Apply every rule that has a meaning for these trades.

    Args:
        trades: TRADE_SCHEMA of one market, in any order, and ``received`` (TIME) where it is known.
        window: the stretch they are of.
        thresholds: default: those of every market.
        sequential: whether the exchange gives ids one after the other.
        around: ids of the trades just before and after the window, where they are known.
        not_served: inclusive ranges of ids that the exchange does not have.
        rejected: refused rows by reason; ``refused_ids``: their ids, where they are known.
    """
    limits, refused = thresholds or Thresholds(), dict(rejected or {})
    trades = in_order(trades)
    found = [
        quality.time_gaps(
            trades,
            widths=[timedelta(milliseconds=width) for width in limits.gaps_ms],
            beyond=limits.gap_beyond,
            sequential=sequential,
            window=window,
            around=around,
        ),
        quality.price_outliers(
            trades,
            window=limits.price_window,
            spreads=limits.price_spreads,
            at_least=limits.price_at_least,
        ),
        quality.volume_outliers(trades, times=limits.volume_times),
        quality.repeated_ids(trades),
        quality.repeated_rows(trades, at_most=limits.same_at_most, share=limits.same_share),
        quality.rejected_share(refused, len(trades), window, at_most=limits.rejected_share),
    ]
    if sequential:
        holes = quality.id_holes(
            trades, at_most=limits.ids_missing, not_served=not_served, refused=refused_ids
        )
        back = timedelta(milliseconds=limits.back_ms)
        found += [holes, quality.out_of_order(trades, more_than=back)]
    if "received" in trades.columns:
        found.append(quality.clock_skew(trades, more_than=timedelta(milliseconds=limits.skew_ms)))
    some = [each for each in found if len(each)]
    return _profile(pl.concat(some) if some else nothing_odd(), len(trades), refused)


def _profile(findings: pl.DataFrame, rows: int, rejected: Mapping[str, int]) -> Profile:
    if findings.is_empty():
        return Profile(findings, rows, rejected, {}, {})
    ordered = findings.sort("time", "rule", "trade_id", maintain_order=True)
    return Profile(ordered, rows, rejected, _by_rule(ordered), _by_rule(ordered.filter("suspicious")))


def _by_rule(findings: pl.DataFrame) -> dict[str, int]:
    return dict(findings.group_by("rule").len().sort("rule").rows())
