"""The candle service on a cluster in memory: whatever happens, finals are those of the batch, once."""

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from marketdata.market import Market
from marketdata.trade import empty_trades
from realtime.candles import CandleCore
from realtime.services import candle_service
from realtime.services.candle_service import CandleService
from realtime.services.history import History, NoHistory
from tests.realtime.services.memory import Cluster, Crash, MemoryInbox, MemoryOutbox
from tests.realtime.test_candle_laws import BTC, INTERVALS, RULES, START, check, deliveries, none_too_late
from tests.realtime.test_candles import at, trades

ETH = Market.parse("kraken:ETH/USD")
Delivery = tuple[pl.DataFrame, list[pl.DataFrame]]


class World:
    """Instances of the service that share a cluster and a clock."""

    def __init__(self, cluster: Cluster, history: History | None = None) -> None:
        self.cluster, self.now, self.history = cluster, START, history or NoHistory()
        self.instances: list[tuple[CandleService, MemoryInbox]] = []

    def start(self) -> None:
        inbox = MemoryInbox(self.cluster)
        service = CandleService(
            inbox,
            MemoryOutbox(self.cluster),
            lambda: CandleCore(INTERVALS, RULES),
            self.history,
            self._clock,
        )
        self.instances.append((service, inbox))

    def _clock(self) -> datetime:
        return self.now

    def share(self, *owners: int) -> None:
        """Give partition n to instance ``owners[n]``; everyone gives up what it has first."""
        for service, inbox in self.instances:
            service.revoked(list(inbox.positions))
            inbox.positions.clear()
        for partition, owner in enumerate(owners):
            service, inbox = self.instances[owner]
            inbox.positions |= service.assigned([partition])

    def kill(self, owner: int) -> None:
        """Nothing is given up; whoever comes next has to see to it."""
        service, _ = self.instances.pop(owner)
        service._pool.shutdown()

    def turn(self) -> None:
        self.now += timedelta(milliseconds=60)
        for service, inbox in list(self.instances):
            service._ticked = service._looked = 0.0
            service._failed = dict.fromkeys(service._failed, 0.0)
            for _, _, answer in service._fetcher._waiting:
                answer.result()
            try:
                service.turn(0)
                for served in service._served.values():
                    served.committer.wait()
            except Crash:
                self.instances.remove((service, inbox))
                held = list(inbox.positions)
                self.start()
                again, theirs = self.instances[-1]
                theirs.positions |= again.assigned(held)
            except candle_service.MarketDataError:
                # What result() raises in the loop, wait() has raised here.
                held = list(inbox.positions)
                service.lost(held)
                inbox.positions |= service.assigned(held)

    def finish(self) -> None:
        """Until all is read and, however often it was killed, closed by the clock."""
        for _ in range(6):
            while any(inbox.lag()[n] for _, inbox in self.instances for n in inbox.positions):
                self.turn()
            self.turn()
            self.now += timedelta(minutes=2)
            self.turn()
        self.cluster.crash = lambda place: False
        for service, _ in self.instances:
            service.close()

    def check(self, *deliveries: tuple[Market, Delivery]) -> None:
        for market, delivery in deliveries:
            check(delivery, [frame for name, frame in self.cluster.finals if name == market])
            for name, late in self.cluster.late:
                assert name != market or none_too_late(late, delivery[1])


def log_of(market: Market, delivery: Delivery) -> list[tuple[Market, pl.DataFrame]]:
    return [(market, batch) for batch in delivery[1]]


def crashes(numbers: list[int]) -> Callable[[str], bool]:
    count = 0

    def crash(place: str) -> bool:
        nonlocal count
        count += 1
        return count in numbers

    return crash


@given(deliveries(), st.lists(st.integers(1, 25), max_size=4))
@settings(max_examples=40)
def test_killed_before_or_after_any_commit_it_tells_each_final_once(
    delivery: Delivery, points: list[int]
) -> None:
    world = World(Cluster({0: log_of(BTC, delivery)}, crashes(points)))
    world.start()
    world.share(0)
    world.finish()
    world.check((BTC, delivery))


@given(
    deliveries(),
    deliveries(),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans()), max_size=5),
)
@settings(max_examples=40)
def test_partitions_move_between_instances_without_loss_or_double_counting(
    one: Delivery, other: Delivery, moves: list[tuple[int, int, bool]]
) -> None:
    world = World(Cluster({0: log_of(BTC, one), 1: log_of(ETH, other)}))
    for _ in range(3):
        world.start()
    world.share(0, 1)
    for first, second, killed in moves:
        for _ in range(2):
            world.turn()
        if killed:
            world.kill(0)
            world.start()
        world.share(first, second)
    world.finish()
    world.check((BTC, one), (ETH, other))


class Past:
    """An exchange that serves every trade there was."""

    def __init__(self, everything: pl.DataFrame) -> None:
        self._everything = everything

    def trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        time = pl.col("time").dt.replace_time_zone("UTC")
        return self._everything.filter((time >= start) & (time < end))


@given(deliveries(), st.integers(1, 20), st.lists(st.integers(1, 25), max_size=4))
@settings(max_examples=40)
def test_begun_in_the_middle_and_killed_it_tells_whole_candles_by_their_history(
    delivery: Delivery, hidden: int, points: list[int]
) -> None:
    everything = delivery[0]
    batches = [batch.filter(pl.col("trade_id") >= 1_000 + hidden) for batch in delivery[1]]
    batches = [batch for batch in batches if len(batch)]
    assume(batches)
    cluster = Cluster({0: log_of(BTC, (everything, batches))}, crashes(points))
    world = World(cluster, Past(everything))
    world.start()
    world.share(0)
    world.finish()
    world.check((BTC, (everything, batches)))


def test_history_that_comes_in_a_replay_is_not_taken_and_asked_for_again() -> None:
    """What one incarnation of a partition has asked for is no answer to the next, which may be replaying."""
    log = [(BTC, trades((10 + n, 30 + n, 5))) for n in range(4)] + [(BTC, trades((20, 62, 5)))]
    everything = trades(*((n, n * 3, 90) for n in range(10)), *((10 + n, 30 + n, 5) for n in range(4)))
    cluster = Cluster({0: log})
    world = World(cluster, Past(everything))
    world.now = at(62)
    world.start()
    world.share(0)
    ((service, _),) = world.instances
    world.turn()
    owner, _, answer = service._fetcher._waiting[0]
    answer.result()
    world.share(0)
    assert service._served[0].candles.replaying
    assert service._served[0] is not owner
    world.finish()
    minute = pl.concat([frame for _, frame in cluster.finals]).filter(
        (pl.col("interval") == "1m") & (pl.col("open_time") == at(0))
    )
    assert minute.sort("revision").select("revision", "trade_count", "partial").rows()[-1][1:] == (14, False)
    assert minute["revision"].is_unique().all()


def test_an_instance_that_lost_its_partition_can_commit_nothing() -> None:
    cluster = Cluster({0: [(BTC, trades((1, 0, 5))), (BTC, trades((2, 90, 6)))]})
    world = World(cluster)
    for _ in range(2):
        world.start()
    world.share(0)
    zombie, _ = world.instances[0]
    new, inbox = world.instances[1]
    inbox.positions |= new.assigned([0])
    zombie.turn(0)
    for served in zombie._served.values():
        assert served.committer._running is not None
        assert "fenced" in str(served.committer._running.exception())
    assert not cluster.finals
    new.turn(0)
    for served in new._served.values():
        served.committer.wait()
    assert len(cluster.finals) == 1
    for service, _ in world.instances:
        service.close()


def test_a_transaction_that_fails_is_made_again() -> None:
    cluster = Cluster({0: [(BTC, trades((1, 0, 5))), (BTC, trades((2, 90, 6)))]}, refuse={0})
    world = World(cluster)
    world.start()
    world.share(0)
    world.finish()
    finals = pl.concat([frame for _, frame in cluster.finals])
    assert finals.filter(pl.col("interval") == "1m")["trade_count"].to_list() == [1, 1]


def test_a_refused_message_is_told_once_also_when_it_is_read_again() -> None:
    poison = (BTC, empty_trades())
    log = [(BTC, trades((1, 0, 5))), poison, (BTC, trades((2, 1, 6))), (BTC, trades((3, 3, 6)))]
    cluster = Cluster({0: log})
    world = World(cluster)
    world.start()
    world.share(0)
    for _ in range(3):
        world.turn()
        world.kill(0)
        world.start()
        world.share(0)
    world.finish()
    assert [reject.offset for reject in cluster.rejects] == [1]


def test_running_candles_go_out_at_once_and_finals_when_the_window_closes() -> None:
    cluster = Cluster({0: [(BTC, trades((1, 0, 5)))]})
    world = World(cluster)
    world.now = at(0)
    world.start()
    world.share(0)
    world.turn()
    (update,) = [frame for _, frame in cluster.running]
    assert update["interval"].to_list() == list(INTERVALS)
    assert not cluster.finals
    world.finish()
