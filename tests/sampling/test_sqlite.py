"""Test a site with a SQLite database: this app never writes to it, and never locks it against a request."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from django.db import DatabaseError, connections
from django.db.backends.sqlite3.base import DatabaseWrapper

from django_tracing.sampling.database import _own_connection, file_of
from tests.sampling.processes import finished, run, start

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the site uses flock")


JOURNALS = pytest.mark.parametrize("journal", ["delete", "wal"])


@JOURNALS
@pytest.mark.parametrize("rules", [0, 3])
def test_no_step_of_a_request_conflicts_with_the_thread(tmp_path: Path, journal: str, rules: int) -> None:
    script = """
        path = set_up(sys.argv[1])
        from django_tracing.models import *
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA journal_mode={sys.argv[2]}")
        for number in range(int(sys.argv[3])):
            SamplingRule.objects.create(name=f"rule {number}", order=number)
        refresher = make()
        for _ in range(5):
            for _ in steps(lambda: work(refresher)):
                pass
        print(names(refresher))
        print([model.objects.count() for model in (ProcessStatus, SamplingCount)])
        """
    out = run(script, tmp_path, journal, rules)
    assert out == f"{[f'rule {number}' for number in range(rules)]}\n[0, 0]\n"


@JOURNALS
def test_refreshing_changes_nothing_of_the_file(tmp_path: Path, journal: str) -> None:
    script = """
        path = set_up(sys.argv[1])
        from django_tracing.models import *
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA journal_mode={sys.argv[2]}")
            SamplingRule.objects.create(name="one")
            refresher = make()

            def state():
                cursor.execute("PRAGMA data_version")
                files = sorted(path.parent.glob("site.sqlite3*"))
                return cursor.fetchone(), [(file, file.read_bytes()) for file in files if file.suffix != ".sqlite3-shm"]

            before = state()
            for _ in range(20):
                work(refresher)
            assert state() == before
        assert names(refresher) == ["one"]
        """
    run(script, tmp_path, journal)


def test_a_locked_file_is_not_waited_for(tmp_path: Path) -> None:
    script = """
        path = set_up(sys.argv[1])
        from django_tracing.models import *
        SamplingRule.objects.create(name="one")
        refresher = make()
        with connection.cursor() as cursor:
            # As while a request commits.
            cursor.execute("BEGIN EXCLUSIVE")
            work(refresher)
            assert names(refresher) == [] and refresher._is_busy
            cursor.execute("COMMIT")
            work(refresher)
            assert names(refresher) == ["one"] and not refresher._is_busy
            cursor.execute("BEGIN EXCLUSIVE")
            cursor.execute("UPDATE django_tracing_samplingrule SET name = 'two'")
            work(refresher)
            assert names(refresher) == ["one"], "those known last stay in force"
            cursor.execute("COMMIT")
        work(refresher)
        print(names(refresher))
        """
    assert run(script, tmp_path) == "['two']\n", "and nothing is logged"


LOOKS = """
    path = set_up(sys.argv[1])
    from django_tracing.models import *
    from django_tracing.sampling import refresh
    from django_tracing.spans import runtime
    connection.close()

    def looks(refresher):
        # How often the host's file is opened.
        opened.clear()
        work(refresher)
        return len([name for name in opened if "site.sqlite3" in name])

    def write():
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO stock VALUES (1)")
        connection.close()

    def rest(seconds):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))

    """


def test_without_rules_the_file_is_not_opened_while_others_write(tmp_path: Path) -> None:
    script = (
        LOOKS
        + """
    refresher = make()
    assert looks(refresher) == 1, "once, when a process makes its first trace"
    for _ in range(5):
        write()
        assert looks(refresher) == 0
    rest(10)
    assert [looks(refresher) for _ in range(3)] == [1, 0, 0], "when it has rested"
    # Past Django's signals: it is seen when the file rests.
    SamplingRule.objects.bulk_create([SamplingRule(name="bulk")])
    assert looks(refresher) == 0
    rest(10)
    assert looks(refresher) == 1 and names(refresher) == ["bulk"]
    """
    )
    run(script, tmp_path)


def test_with_rules_the_file_is_read_when_it_has_changed(tmp_path: Path) -> None:
    script = (
        LOOKS
        + """
    SamplingRule.objects.create(name="off", enabled=False)
    refresher = make()
    assert [looks(refresher) for _ in range(3)] == [1, 1, 1], "within the clock's step it may change again"
    rest(3)
    assert [looks(refresher) for _ in range(3)] == [1, 0, 0]
    SamplingRule.objects.update(enabled=True)
    assert looks(refresher) == 1 and names(refresher) == ["off"]
    """
    )
    run(script, tmp_path)


def test_processes_notify_each_other_of_a_first_rule(tmp_path: Path) -> None:
    script = (
        LOOKS
        + """
    one, other = make(), make()
    for refresher in (one, other):
        work(refresher)
    runtime.use(runtime.current.replace(refresher=one))
    for signal in (refresh.post_save, refresh.post_delete):
        signal.connect(refresh._saved, sender="django_tracing.SamplingRule")
    for name in ("a", "b"):
        SamplingRule.objects.create(name=name)
        assert looks(other) == 1 and names(other)[-1] == name, "though others write to the file"
        assert looks(one) == 1 and names(one)[-1] == name
    SamplingRule.objects.all().delete()
    assert looks(other) == 1 and names(other) == []
    write()
    assert looks(other) == 0
    """
    )
    run(script, tmp_path)


def test_a_replaced_file_is_read(tmp_path: Path) -> None:
    script = (
        LOOKS
        + """
    import shutil
    shutil.copy(path, f"{path}.old")
    SamplingRule.objects.create(name="restored")
    connection.close()
    os.replace(path, f"{path}.new")
    os.replace(f"{path}.old", path)
    refresher = make()
    work(refresher)
    assert names(refresher) == []
    os.replace(f"{path}.new", path)
    assert looks(refresher) == 1 and names(refresher) == ["restored"]
    """
    )
    run(script, tmp_path)


def test_signal_receivers_for_connections_are_not_called(tmp_path: Path) -> None:
    run("set_up(sys.argv[1])\nfrom django_tracing.models import *\nSamplingRule.objects.create(name='one')", tmp_path)
    script = """
        from django.db.backends.signals import connection_created
        path = set_up(sys.argv[1], migrate=False, init_command="PRAGMA journal_mode=wal; PRAGMA busy_timeout=9000")
        made = []
        connection_created.connect(lambda **given: made.append(given), weak=False)
        refresher = make()
        work(refresher)
        assert names(refresher) == ["one"]
        assert made == []
        assert path.read_bytes()[18] == 1, "its journal is what it was"
        """
    run(script, tmp_path)


@pytest.mark.parametrize(
    "name", ["{}/site.sqlite3", "file:{}/site.sqlite3?mode=rw&cache=private", "file://{}/site.sqlite3"]
)
def test_any_name_of_the_file(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a b%20c?#d"
    folder.mkdir()
    run("set_up(sys.argv[1])\nfrom django_tracing.models import *\nSamplingRule.objects.create(name='one')", folder)
    written = str(folder)
    if name.startswith("file:"):
        written = written.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    script = """
        set_up(sys.argv[1], migrate=False, name=sys.argv[2])
        refresher = make()
        work(refresher)
        print(names(refresher))
        """
    assert run(script, folder, name.format(written)) == "['one']\n"


@pytest.mark.parametrize(
    ("name", "file", "address"),
    [
        ("/a b/site.sqlite3", "/a b/site.sqlite3", "file:///a%20b/site.sqlite3?mode=ro"),
        ("file:/a%20b/site.sqlite3?mode=rwc", "/a b/site.sqlite3", "file:///a%20b/site.sqlite3?mode=ro"),
        ("file://localhost/site.sqlite3", "/site.sqlite3", "file:///site.sqlite3?mode=ro"),
        # A cache that is shared with the request's connection would be locked with it.
        ("file:/site.sqlite3?cache=shared&vfs=unix#x", "/site.sqlite3", "file:///site.sqlite3?vfs=unix&mode=ro"),
    ],
)
def test_the_file_is_opened_for_reading_whatever_its_name_says(name: str, file: str, address: str) -> None:
    connections["named"] = DatabaseWrapper({**connections["default"].settings_dict, "NAME": name}, "named")
    try:
        assert file_of("named") == (Path(file), address)
    finally:
        del connections["named"]


@pytest.mark.django_db
def test_the_own_connection_waits_for_nothing_and_runs_nothing_of_the_hosts(tmp_path: Path) -> None:
    file = tmp_path / "site.sqlite3"
    sqlite3.connect(file).close()
    host = DatabaseWrapper(
        {
            **connections["default"].settings_dict,
            "NAME": file,
            "OPTIONS": {"timeout": 20, "init_command": "CREATE TEMP TABLE planted (a)", "cached_statements": 7},
        },
        "named",
    )
    connections["named"] = host
    try:
        found = file_of("named")
        assert found is not None
        with _own_connection("named", found[1]) as own:
            assert connections["named"] is own
            with own.cursor() as cursor:
                assert cursor.execute("PRAGMA busy_timeout").fetchone() == (0,)
                assert cursor.execute("SELECT name FROM sqlite_temp_master").fetchone() is None
                with pytest.raises(DatabaseError, match="readonly"):
                    cursor.execute("CREATE TABLE written (a)")
            # What else the host's options say is kept.
            assert own.settings_dict["OPTIONS"] == {"timeout": 0, "cached_statements": 7}
        assert connections["named"] is host
        assert own.connection is None
        assert host.settings_dict["OPTIONS"]["timeout"] == 20
    finally:
        del connections["named"]


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&cache=shared", "nowhere.sqlite3"])
def test_a_missing_file_is_not_created(tmp_path: Path, name: str) -> None:
    script = """
        os.chdir(sys.argv[1])
        set_up(sys.argv[1], migrate=False, name=sys.argv[2])
        refresher = make()
        work(refresher)
        assert names(refresher) == []
        """
    run(script, tmp_path, name)
    assert [file.name for file in tmp_path.iterdir()] == [".tracing"]


def test_a_site_that_has_not_migrated(tmp_path: Path) -> None:
    script = """
        import logging
        logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
        set_up(sys.argv[1], migrate=False)
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE stock (number INTEGER)")
        refresher = make()
        work(refresher)
        work(refresher)
        """
    out = run(script, tmp_path)
    assert out.count("migrate django_tracing") == 1
    assert len(out.splitlines()) == 1


def test_a_rule_expires_although_the_file_is_unchanged(tmp_path: Path) -> None:
    script = """
        from datetime import datetime, timedelta
        path = set_up(sys.argv[1], USE_TZ=sys.argv[2] == "True")
        from django.utils import timezone
        from django_tracing.models import *
        SamplingRule.objects.create(name="ended", valid_until=timezone.now() - timedelta(seconds=1))
        SamplingRule.objects.create(name="tonight", valid_until=timezone.now() + timedelta(hours=1))
        SamplingRule.objects.create(name="off", enabled=False)
        refresher = make()
        work(refresher)
        print(names(refresher))
        """
    for use_tz in (True, False):
        folder = tmp_path / str(use_tz)
        folder.mkdir()
        assert run(script, folder, use_tz) == "['tonight']\n"


HAMMER = """
    folder, journal, number = sys.argv[1:]
    # Requests wait, as Django's default has it: what fails at once does so however long they would.
    path = set_up(folder, migrate=False, timeout=60)
    refreshers = [make() for _ in range(2)]
    for index, refresher in enumerate(refreshers):
        refresher._process = f"{number}-{index}"
    over = threading.Event()

    def refresh(refresher):
        while not over.is_set():
            decide(refresher)
            refresher._status_stored = float("-inf")
            refresher.refresh()

    threads = [threading.Thread(target=refresh, args=(refresher,)) for refresher in refreshers]
    for thread in threads:
        thread.start()
    failed = []
    for _ in range(100):
        try:
            with alone(path):
                for _ in steps(lambda: None):
                    pass
        except Exception as error:
            failed.append(repr(error))
    over.set()
    for thread in threads:
        thread.join()
    print(failed)
    """


@JOURNALS
def test_no_request_of_many_processes_fails_while_all_refresh(tmp_path: Path, journal: str) -> None:
    started = """
        set_up(sys.argv[1])
        from django_tracing.models import *
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA journal_mode={sys.argv[2]}")
        SamplingRule.objects.create(name="all")
        """
    run(started, tmp_path, journal)
    sites = [start(HAMMER, tmp_path, journal, number) for number in range(4)]
    assert [finished(site) for site in sites] == ["[]\n"] * 4
    used = """
        set_up(sys.argv[1], migrate=False)
        with connection.cursor() as cursor:
            cursor.execute("SELECT number FROM stock")
            print(*cursor.fetchone())
        from django_tracing.conf.loading import load
        from django_tracing.sampling.figures import figures
        print(*sorted(row.process for row in figures(load({"LOCAL_STORE": store()}, {})).processes()))
        """
    stock, processes = run(used, tmp_path).splitlines()
    assert stock == "400"
    assert processes == " ".join(f"{number}-{index}" for number in range(4) for index in range(2))


@pytest.mark.parametrize("reads", [True, False], ids=["the parent reads", "the parent does not read"])
def test_a_child_knows_what_its_parent_reads_and_reads_later(reads: bool, tmp_path: Path) -> None:
    """A process that is forked for one task ends before it would read."""
    script = """
        import warnings
        warnings.simplefilter("ignore")
        set_up(sys.argv[1])
        from django_tracing.models import *
        SamplingRule.objects.create(name="one")
        connection.close()
        refresher = make(refresh=3600)
        refresher.handle_forks()
        if len(sys.argv) > 2:
            refresher.start()
            while not refresher._due > 0:
                time.sleep(0.01)
        child = os.fork()
        if child == 0:
            known, done = names(refresher), threading.Event()
            steps = []

            class Wake(threading.Event):
                def wait(self, timeout=None):
                    steps.append(timeout)
                    done.set() if timeout else None
                    return super().wait(timeout)

            refresher._wake = Wake()
            refresher.refresh = lambda: steps.append("read")
            refresher.start()
            done.wait()
            print(known, [step if step == "read" else step > 3000 for step in steps], flush=True)
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    out = run(script.replace("import warnings", "import time, warnings"), tmp_path, *(["reads"] if reads else []))
    assert out == ("['one'] [True]\n" if reads else "[] [False, 'read', True]\n")


def test_a_child_forked_while_the_thread_is_in_sqlite_works(tmp_path: Path) -> None:
    script = """
        import signal
        set_up(sys.argv[1])
        from django_tracing.models import *
        from django_tracing.sampling import refresh
        SamplingRule.objects.create(name="one")
        connection.close()
        refresher = make()
        refresh.FORK_TIMEOUT = 0.01
        held, go = threading.Event(), threading.Event()

        def hold():
            with refresher.sqlite_lock:
                held.set()
                go.wait()

        def fork():
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                refresher.refresh()
                os._exit(7 if names(refresher) == ["one"] else 8)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

        refresher.handle_forks()
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        fork()
        go.set()
        thread.join()
        fork()
        refresher.refresh()
        assert names(refresher) == ["one"], "the parent goes on, too"
        """
    run(script.replace("import signal", "import signal, warnings\n        warnings.simplefilter('ignore')"), tmp_path)
