"""Steps up and down, by whoever, however often, whatever happens in between."""

import re
import threading
from datetime import timedelta

import psycopg
import pytest

from marketdata.errors import MarketDataError, TransientError, UnknownName, UsageError
from marketdata.settings import Settings
from marketdata.store import migrate, wider
from marketdata.store.engine import connect
from tests.store.candles import START, add_market, candle, copy, differences
from tests.store.conftest import RunningServer

OURS = """
SELECT kind, name FROM (
    SELECT 'relation', relname::text, relnamespace FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'S')
    UNION ALL SELECT 'function', proname::text, pronamespace FROM pg_proc
    UNION ALL SELECT 'type', typname::text, typnamespace FROM pg_type WHERE typtype = 'e'
) AS objects (kind, name, namespace)
WHERE namespace = current_schema()::regnamespace AND name <> 'alembic_version'
    AND NOT EXISTS (SELECT FROM pg_depend JOIN pg_extension ON refobjid = pg_extension.oid
        WHERE deptype = 'e' AND objid IN (SELECT oid FROM pg_proc WHERE proname = objects.name))
ORDER BY 1, 2
"""


def objects(url: str) -> list[tuple[str, str]]:
    with connect(url) as connection:
        return connection.execute(OURS).fetchall()


def test_each_step_can_be_undone_and_done_again(empty_database: str) -> None:
    before = objects(empty_database)
    seen = []
    for step in migrate.steps():
        assert migrate.upgrade(empty_database, step).steps == [step]
        assert migrate.current(empty_database) == step
        seen.append(objects(empty_database))
    for at in reversed(range(len(seen))):
        assert objects(empty_database) == seen[at]
        step = migrate.steps()[at]
        assert migrate.downgrade(empty_database, migrate.steps()[at - 1] if at else "base") == [step]
    assert objects(empty_database) == before
    assert migrate.current(empty_database) is None
    assert migrate.upgrade(empty_database).steps == list(migrate.steps())
    assert objects(empty_database) == seen[-1]


def test_every_step_has_its_undo_and_every_file_belongs_to_a_step() -> None:
    folder, steps = migrate.sql_folder(), set(migrate.steps())
    for path in folder.rglob("*.sql"):
        assert path.name.removesuffix(".sql").removesuffix(".down") in steps, path
    for step in steps:
        assert (folder / f"{step}.down.sql").is_file(), step
    assert [step[:4] for step in migrate.steps()] == [f"{n:04}" for n in range(1, len(steps) + 1)]


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(database: str) -> None:
    before = objects(database)
    done = migrate.upgrade(database)
    assert (done.steps, done.policies, done.refreshed) == ([], [], 0)
    assert objects(database) == before


def test_two_that_upgrade_at_once_do_each_step_once(empty_database: str) -> None:
    done: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: done.append(migrate.upgrade(empty_database).steps)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done, key=len) == [[], [], list(migrate.steps())]


def test_a_step_that_fails_leaves_nothing_behind(empty_database: str) -> None:
    migrate.upgrade(empty_database, "0003_candle")
    with connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE candle_1d (in_the_way int)")
    before = objects(empty_database)
    with pytest.raises(MarketDataError, match="candle_1d"):
        migrate.upgrade(empty_database)
    assert migrate.current(empty_database) == "0003_candle"
    assert objects(empty_database) == before
    with connect(empty_database, autocommit=True) as connection:
        connection.execute("DROP TABLE candle_1d")
    assert migrate.upgrade(empty_database).steps[0] == "0004_wider"


def test_a_server_killed_during_a_step_has_done_it_or_not(server: RunningServer) -> None:
    if server.embedded is None:
        pytest.skip("a server given by its URL is not killed")
    name = server.create()
    url = server.url_of(name)
    migrate.upgrade(url, "0003_candle")
    failed: list[BaseException] = []

    def upgrade() -> None:
        try:
            migrate.upgrade(url)
        except MarketDataError as error:
            failed.append(error)

    blocker = connect(url)
    blocker.execute("LOCK TABLE alembic_version IN SHARE MODE")  # the step can do all but be noted
    thread = threading.Thread(target=upgrade)
    thread.start()
    try:
        _until_waiting(url)
    finally:
        server.kill()
        blocker.close()
        thread.join(20)
        server.start()
    assert [type(error) for error in failed] == [TransientError]
    assert migrate.current(url) == "0003_candle"
    assert migrate.upgrade(url).steps[0] == "0004_wider"
    server.drop(name)


def _until_waiting(url: str) -> None:
    with connect(url, autocommit=True) as watcher:
        for _ in range(500):
            row = watcher.execute(
                "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
                " WHERE NOT granted AND relation = 'alembic_version'::regclass"
            ).fetchone()
            if row == (1,):
                return
            threading.Event().wait(0.02)
    pytest.fail("the upgrade did not come to its end")


@pytest.mark.parametrize("written", ["3", "0003", "0003_candle"])
def test_a_step_is_named_by_its_number_too(empty_database: str, written: str) -> None:
    migrate.upgrade(empty_database, written)
    assert migrate.current(empty_database) == "0003_candle"


def test_an_unknown_step_says_the_nearest(empty_database: str) -> None:
    with pytest.raises(UnknownName, match=re.escape("0003_candle")):
        migrate.upgrade(empty_database, "0003_candles")


def test_an_upgrade_does_not_go_back(database: str) -> None:
    with pytest.raises(UsageError, match="downgrade"):
        migrate.upgrade(database, "0003_candle")


def test_a_schema_of_a_newer_program_is_left_alone(database: str) -> None:
    with connect(database, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_later'")
    for work in (migrate.upgrade, lambda url: migrate.downgrade(url, "base")):
        with pytest.raises(UsageError, match="9999_later"):
            work(database)


def test_the_wide_step_folds_the_candles_that_are_there(database: str) -> None:
    with connect(database, autocommit=True) as connection:
        number = add_market(connection)
        copy(connection, number, [candle(minute) for minute in range(200)])
    migrate.downgrade(database, "0003_candle")
    with connect(database, autocommit=True) as connection:
        copy(connection, number, [candle(minute) for minute in range(200, 300)])
    migrate.upgrade(database)
    with connect(database, autocommit=True) as connection:
        assert differences(connection, number) == {}


def test_timescaledb_can_be_left_out_by_a_setting(empty_database: str, timescale: str) -> None:
    done = migrate.upgrade(empty_database, settings=Settings.load(store_timescaledb="off"))
    assert done.policies == []
    with connect(empty_database, autocommit=True) as connection:
        assert not wider.is_timescale(connection)
        number = add_market(connection)
        copy(connection, number, [candle(minute) for minute in range(200)])
        assert differences(connection, number) == {}
    assert migrate.downgrade(empty_database, "base") == list(reversed(migrate.steps()))


def test_a_user_who_may_not_create_the_extension_is_told_what_to_do(
    server: RunningServer, empty_database: str, timescale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise psycopg.errors.InsufficientPrivilege

    monkeypatch.setattr(migrate, "_create_extension", refused)
    with pytest.raises(UsageError, match="MARKETDATA_STORE_TIMESCALEDB=off"):
        migrate.upgrade(empty_database)


def test_what_a_crash_left_marked_an_upgrade_makes_anew(database: str, timescale: str) -> None:
    with connect(database, autocommit=True) as connection:
        number = add_market(connection)
        copy(connection, number, [candle(minute) for minute in range(200)])
        wider.refresh(connection)
        connection.execute(
            "UPDATE candle SET close = close + 1, high = high + 1 WHERE open_time < %s",
            (START + timedelta(hours=1),),
        )
        assert differences(connection, number) != {}
    assert migrate.upgrade(database).refreshed >= 1
    with connect(database, autocommit=True) as connection:
        assert differences(connection, number) == {}
        assert connection.execute("SELECT count(*) FROM candle_stale").fetchone() == (0,)
