"""The local store: many processes, a bounded file, files that are damaged or somebody else's."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from django_tracing.exceptions import StoreError
from django_tracing.traces.readers.sqlite import store as local
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import MS, NOON, row

REPOSITORY = Path(__file__).parents[4]


def run(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python of its own that runs ``script`` with ``sys.argv[1:]``, warnings being errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert not err
    return out


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".tracing" / "traces.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[LocalStore]:
    store = LocalStore(path)
    yield store
    store.close()


def set_asides(path: Path) -> list[Path]:
    return [each for each in path.parent.glob(f"{path.name}.corrupt-*") if not each.name.endswith(("-wal", "-shm"))]


# ----- Files


def modes(folder: Path) -> dict[str, str]:
    return {each.name: oct(each.stat().st_mode & 0o777) for each in folder.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("name", [".tracing", "elsewhere"])
def test_what_is_stored_is_its_users_alone(tmp_path: Path, mask: int, name: str) -> None:
    """Whatever the umask; SQLite's log and its index as well, which are there while a writer is."""
    path = tmp_path / "new" / name / "traces.sqlite3"
    script = """
        import os, stat, sys
        os.umask(int(sys.argv[2]))
        from django_tracing.traces.readers.sqlite.store import LocalStore
        from tests.traces.builders import row
        store = LocalStore(sys.argv[1])
        store.write([row()])
        assert len(LocalStore(sys.argv[1]).search()) == 1
        folder = store.path.parent
        print(oct(folder.stat().st_mode & 0o777))
        for file in sorted(folder.iterdir()):
            print(file.name, oct(file.stat().st_mode & 0o777))
        assert os.umask(0) == int(sys.argv[2])
        """
    out = finished(run(script, path, mask))
    assert out.split("\n") == [
        "0o700",
        ".gitignore 0o600",
        "traces.sqlite3 0o600",
        "traces.sqlite3-shm 0o600",
        "traces.sqlite3-wal 0o600",
        "",
    ]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_store_of_an_older_version_is_tightened(store: LocalStore, path: Path) -> None:
    store.write([row()])
    for suffix in ("corrupt-20260101-000000-1", "corrupt-20260101-000000-1-wal"):
        (path.parent / f"{path.name}.{suffix}").touch()
    (path.parent / "notes.txt").touch()
    for each in path.parent.iterdir():
        each.chmod(0o644)
    path.parent.chmod(0o755)
    # The file, its log and its index, while another process has them open.
    again = LocalStore(path)
    again.write([row(2)])
    found = modes(path.parent)
    assert found.pop("notes.txt") == "0o644"
    assert found.pop(".gitignore") == "0o644"
    assert len(found) == 5
    assert set(found.values()) == {"0o600"}
    assert oct(path.parent.stat().st_mode & 0o777) == "0o700"
    again.close()
    store.write([row(3)])
    assert len(store.search()) == 3


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_folder_that_was_there_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    store = LocalStore(folder / "traces.sqlite3")
    store.write([row()])
    assert oct(folder.stat().st_mode & 0o777) == "0o755"
    assert set(modes(folder).values()) == {"0o600"}
    store.close()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("content", [b"this is no database" * 100, b"damaged"])
def test_what_is_set_aside_is_its_users_alone(store: LocalStore, path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o644)
    store.write([row()])
    assert set(modes(path.parent).values()) == {"0o600"}
    assert len(set_asides(path)) == 1


def test_nothing_is_made_before_the_first_write(store: LocalStore, path: Path) -> None:
    assert store.search() == []
    assert store.services() == []
    assert store.operations("shop") == []
    assert store.trace("a" * 32) is None
    assert not path.parent.exists()


def test_a_folder_of_its_own_keeps_out_of_git(store: LocalStore, path: Path) -> None:
    store.write([row()])
    assert (path.parent / ".gitignore").read_text() == "*\n"


def test_somebody_elses_folder_is_left_as_it_is(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "traces.sqlite3")
    store.write([row()])
    store.close()
    assert [each.name for each in tmp_path.iterdir()] == ["traces.sqlite3"]


def test_a_file_deleted_under_the_writer_is_begun_anew(store: LocalStore, path: Path) -> None:
    store.write([row(1)])
    for each in path.parent.iterdir():
        each.unlink()
    path.parent.rmdir()
    store.write([row(2)])
    assert [found.trace_id for found in store.search()] == [f"{2:032x}"]


def test_an_empty_file_is_filled(store: LocalStore, path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert store.search() == []
    store.write([row()])
    assert len(store.search()) == 1


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"x"])
def test_a_file_that_is_no_database_is_set_aside(
    store: LocalStore, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    store.write([row()])
    store.write([row(2)])
    assert len(store.search()) == 2
    (aside,) = set_asides(path)
    assert aside.read_bytes() == content
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(aside) in caplog.text


def test_reading_a_file_that_is_no_database_finds_nothing(store: LocalStore, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    assert store.search() == []
    store.write([row()])
    assert len(store.search()) == 1


def test_a_damaged_file_is_set_aside(store: LocalStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store.write([row(number, attributes={"x": "y" * 500}) for number in range(1, 300)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="created again with the next trace"):
        store.search()
    store.write([row(7)])
    assert [found.trace_id for found in store.search()] == [f"{7:032x}"]
    assert len(set_asides(path)) == 1
    assert "it is damaged" in caplog.text


@pytest.mark.parametrize(
    ("written", "damaged"),
    [
        (b'["shop"]', b'["shop"['),
        (b'{"color":', b'{"color" '),
        (b"GET /items", b"GET /it\xffms"),
        (b"internal", b"infernal"),
        (b"python", b"pithon"),
        (b"database", b"data\x00ase"),
        (b"CREATE TABLE traces", b"CREATE TABLE tr\xffces"),
    ],
)
def test_damage_that_sqlite_does_not_see(store: LocalStore, path: Path, written: bytes, damaged: bytes) -> None:
    store.write(
        [
            row(1, 1, 0, "GET /items", attributes={"color": "red"}),
            row(1, 2, 1, "db.select.x", kind="client", attributes={"db.system": "postgresql", "db.name": "x"}),
        ]
    )
    store.close()
    content = path.read_bytes()
    assert written in content
    path.write_bytes(content.replace(written, damaged))
    said = []
    for ask in (
        store.services,
        lambda: store.operations("shop"),
        store.search,
        lambda: store.search(attributes={"color": "red"}),
        lambda: store.trace(f"{1:032x}"),
        store.routes,
        store.dependencies,
    ):
        try:
            ask()
        except StoreError as error:
            said.append(str(error))
    assert said
    assert all("created again with the next trace" in message for message in said)
    # More of the trace, and another.
    store.write([row(1, 3, 1), row(7)])
    assert store.trace(f"{7:032x}") is not None


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_older_version_is_brought_up_to_date(path: Path, version: int) -> None:
    """The tables as they were before pages asked what a span spends its time on, and before traces had a bound."""
    first = LocalStore(path)
    first.write(
        [
            row(1, 1, 0, "GET /x", kind="server", took=9),
            row(
                1, 2, 1, "db.select.x", kind="client", took=4, attributes={"db.system": "postgresql", "db.name": "x"}
            ),
        ]
    )
    first.close()
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE traces DROP COLUMN left_out")
    connection.execute("DROP TABLE awaited")
    for column in ("work", "target_kind", "target") if version == 1 else ():
        connection.execute(f"ALTER TABLE spans DROP COLUMN {column}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()

    store = LocalStore(path)
    store.write([row(2)])
    assert [int(found.trace_id, 16) for found in store.search()] == [2, 1]
    (link,) = store.dependencies().links
    assert (link.caller, link.callee, link.kind) == ("shop", "postgresql x", "database")
    assert store.routes()[0].time_by_work == {"python": 6 * MS, "sql": 4 * MS}
    store.close()
    assert list(path.parent.glob("*.corrupt*")) == []


def test_a_file_of_another_version_is_set_aside(
    store: LocalStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.write([row(1)])
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert store.search() == []
    store.write([row(2)])
    assert [found.trace_id for found in store.search()] == [f"{2:032x}"]
    (aside,) = set_asides(path)
    assert integrity(aside) == "ok"
    assert "version 99" in caplog.text


def test_the_database_of_another_program_is_never_touched(store: LocalStore, path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program's database") as caught:
        store.write([row()])
    assert caught.value.reason == "foreign"
    with pytest.raises(StoreError, match="LOCAL_STORE"):
        store.search()
    assert path.read_bytes() == before
    assert not set_asides(path)


def test_what_another_program_has_not_yet_moved_into_its_file_counts_too(store: LocalStore, path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE customers (name TEXT)")
    for _ in range(2):
        with pytest.raises(StoreError, match="another program's database"):
            store.write([row()])
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]
    connection.close()


def test_processes_that_meet_on_a_damaged_file_go_on_together(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    script = """
        import os, sys, time
        sys.path.insert(0, ".")
        from django_tracing.traces.readers.sqlite.store import LocalStore
        from tests.traces.builders import row
        store = LocalStore(sys.argv[1])
        first = int(sys.argv[2])
        rename = os.replace
        def slow(*paths):
            # The others find the same file meanwhile.
            time.sleep(0.2)
            rename(*paths)
        os.replace = slow
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(first, first + 20):
            store.write([row(number)])
        store.close()
    """
    processes = []
    for worker in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(path), str(worker * 100 + 1)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert integrity(path) == "ok"
    assert len(LocalStore(path).search(limit=1000)) == 80


def nobodys(script: str, *arguments: object) -> str:
    """What ``script`` prints as a user who may write nowhere."""
    return finished(
        run(
            """
            # What is imported late would be looked for as a user who may not read it.
            import os, sys, urllib.parse
            sys.path.insert(0, ".")
            from django_tracing.exceptions import StoreError
            from django_tracing.traces.readers.sqlite.store import LocalStore
            from tests.traces.builders import row
            if os.geteuid() == 0:
                os.setuid(65534)
            """
            + script,
            *arguments,
        )
    )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        yield Path(name)
        Path(name).chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("inside", ["traces.sqlite3", "new/traces.sqlite3"])
def test_a_folder_that_may_not_be_written(open_folder: Path, inside: str) -> None:
    script = """
            try:
                LocalStore(sys.argv[1]).write([row()])
            except StoreError as error:
                print(error.reason, error)
            print(LocalStore(sys.argv[1]).search())
            """
    out = nobodys(script, open_folder / inside)
    assert out.startswith("read_only ")
    assert str(open_folder) in out
    assert "set LOCAL_STORE to another path" in out
    assert out.endswith("[]\n")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_store_that_may_only_be_read(open_folder: Path) -> None:
    open_folder.chmod(0o755)
    store = LocalStore(open_folder / "traces.sqlite3")
    # Open, as by the server whose traces somebody else looks at.
    store.write([row()])
    # Whatever the umask, and whoever runs this: it may be read, and no more.
    for file in open_folder.iterdir():
        file.chmod(0o444)
    open_folder.chmod(0o555)
    script = """
            print(len(LocalStore(sys.argv[1]).search()))
            try:
                LocalStore(sys.argv[1]).write([row(2)])
            except StoreError as error:
                print(error.reason, error)
            """
    out = nobodys(script, store.path)
    store.close()
    assert out.startswith("1\nread_only ")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs two users")
def test_another_user_is_told_whose_it_is(open_folder: Path) -> None:
    open_folder.chmod(0o755)
    store = LocalStore(open_folder / "new" / "traces.sqlite3")
    store.write([row()])
    script = """
            for ask in (lambda store: store.search(), lambda store: store.write([row(2)])):
                try:
                    ask(LocalStore(sys.argv[1]))
                except StoreError as error:
                    print(error.reason, error)
            """
    out = nobodys(script, store.path)
    store.close()
    assert out.count("read_only ") == 2
    assert "only the user that the site runs as may read it. Run this as that user" in out


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
def test_a_disk_that_takes_no_more(path: Path) -> None:
    out = finished(
        run(
            """
            import resource, sys
            sys.path.insert(0, ".")
            from django_tracing.exceptions import StoreError
            from django_tracing.traces.readers.sqlite.store import LocalStore
            from tests.traces.builders import row
            store = LocalStore(sys.argv[1])
            store.write([row(1)])
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
            try:
                store.write([row(2, number, attributes={"x": "y" * 1000}) for number in range(1, 1000)])
            except StoreError as error:
                print("refused:", error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            print([found.span_count for found in store.search()])
            store.write([row(3)])
            print(len(store.search()))
            store.close()
            """,
            path,
        )
    )
    assert out.startswith("refused: The local store")
    # All of a batch or nothing of it, and on it goes when there is room.
    assert out.endswith("[1]\n2\n")
    assert integrity(path) == "ok"
    assert not set_asides(path)


def test_a_writer_that_is_waited_for_in_vain(store: LocalStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "BUSY_TIMEOUT", 0.05)
    store.write([row(1)])
    store.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="in use by others") as caught:
        store.write([row(2)])
    assert caught.value.reason == "busy"
    # Readers do not wait for writers.
    assert len(store.search()) == 1
    other.execute("ROLLBACK")
    other.close()
    store.write([row(2)])
    assert len(store.search()) == 2


# ----- Many processes and threads

WRITER = """
    import sys
    sys.path.insert(0, ".")
    from django_tracing.traces.readers.sqlite.store import LocalStore
    from tests.traces.builders import row
    path, worker, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = LocalStore(path)
    for number in range(1, count + 1):
        # One trace of its own, and a span of one that all of them take part in.
        store.write([
            row((worker + 1) * 10_000 + number, 1, service=f"worker-{worker}"),
            row(number, worker + 1, 1 if worker else 0, f"part-{worker}", start=worker, service=f"worker-{worker}",
                status="error" if worker == 7 else "unset"),
        ])
    store.close()
"""


def test_eight_processes_write_while_others_read(path: Path) -> None:
    writers = [run(WRITER, path, worker, 30) for worker in range(8)]
    store = LocalStore(path)
    while any(writer.poll() is None for writer in writers):
        for found in store.search(limit=50):
            trace = store.trace(found.trace_id)
            assert trace is not None
            # What one sees is never half of a batch; the second look may see more than the first.
            assert trace.span_count >= found.span_count >= 1
    for writer in writers:
        finished(writer)
    everything = store.search(limit=1000)
    assert len(everything) == 8 * 30 + 30
    shared = store.search(operation="part-7", limit=1000)
    assert len(shared) == 30
    for found in shared:
        assert found.span_count == 8
        assert found.error_count == 1
        assert (found.name, found.service) == ("part-0", "worker-0")
        assert found.services == tuple(f"worker-{number}" for number in range(8))
    assert integrity(path) == "ok"


def test_a_killed_writer_leaves_a_store_that_can_be_used(path: Path) -> None:
    process = run(
        """
        import itertools, sys
        sys.path.insert(0, ".")
        from django_tracing.traces.readers.sqlite.store import LocalStore
        from tests.traces.builders import row
        store = LocalStore(sys.argv[1], max_traces=50)
        for number in itertools.count(1):
            store.write([row(number, span, 1 if span > 1 else 0) for span in range(1, 21)])
            if number == 100:
                print("going", flush=True)
        """,
        path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    process.kill()
    process.communicate()
    store = LocalStore(path, max_traces=50)
    found = store.search(limit=1000)
    assert len(found) == 50
    assert {each.span_count for each in found} == {20}
    store.write([row(10**9, base=NOON + 10**12)])
    assert store.search(limit=1)[0].trace_id == f"{10**9:032x}"
    store.close()
    assert integrity(path) == "ok"


def test_threads_share_a_store(store: LocalStore) -> None:
    def write(number: int) -> int:
        store.write([row(number)])
        return len(store.search(limit=1000))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, range(1, 101)))
    assert len(store.search(limit=1000)) == 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_store_survives_a_fork(path: Path) -> None:
    out = finished(
        run(
            """
            import os, sys
            sys.path.insert(0, ".")
            from django_tracing.traces.readers.sqlite.store import LocalStore
            from tests.traces.builders import row
            store = LocalStore(sys.argv[1])
            store.write([row(1)])
            children = []
            for number in range(2, 6):
                child = os.fork()
                if not child:
                    store.write([row(number)])
                    sys.exit(0)
                children.append(child)
                store.write([row(number * 10)])
            print([os.waitpid(child, 0)[1] for child in children])
            print(len(store.search()))
            """,
            path,
        )
    )
    assert out == "[0, 0, 0, 0]\n9\n"
    assert integrity(path) == "ok"


def test_a_store_left_open_says_nothing_at_exit(path: Path) -> None:
    assert not finished(
        run(
            """
            import sys
            sys.path.insert(0, ".")
            from django_tracing.traces.readers.sqlite.store import LocalStore
            from tests.traces.builders import row
            write = LocalStore(sys.argv[1]).write
            write([row()])
            """,
            path,
        )
    )


# ----- The ring


def test_the_traces_that_came_last_are_kept(path: Path) -> None:
    store = LocalStore(path, max_traces=10)
    for number in range(1, 26):
        store.write([row(number, 1, start=number), row(number, 2, 1, start=number)])
    assert [int(found.trace_id, 16) for found in store.search(limit=100)] == list(range(25, 15, -1))
    store.close()
    connection = sqlite3.connect(path)
    for table, count in (("spans", 20), ("resources", 10), ("traces", 10)):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (count,)
    connection.close()


def test_one_batch_may_be_larger_than_the_ring(path: Path) -> None:
    store = LocalStore(path, max_traces=3)
    store.write([row(number, start=number) for number in range(1, 11)])
    assert [int(found.trace_id, 16) for found in store.search()] == [10, 9, 8]
    store.close()


def test_a_clock_that_runs_behind_loses_no_trace(path: Path) -> None:
    store = LocalStore(path, max_traces=2)
    store.write([row(1), row(2)])
    store.write([row(3, base=NOON - 10**15)])
    assert store.trace(f"{3:032x}") is not None
    store.close()


def test_the_file_does_not_grow(path: Path) -> None:
    store = LocalStore(path, max_traces=50)

    def fill(first: int) -> int:
        for number in range(first, first + 100):
            store.write([row(number, span, attributes={"x": "y" * 500}) for span in range(1, 11)])
        store.close()
        return path.stat().st_size

    settled = fill(1)
    assert fill(1000) <= settled * 1.1


def test_a_smaller_ring_gives_its_room_back(path: Path) -> None:
    large = LocalStore(path, max_traces=500)
    large.write([row(number, attributes={"x": "y" * 2000}) for number in range(1, 501)])
    large.close()
    before = path.stat().st_size
    small = LocalStore(path, max_traces=5)
    for number in range(1000, 1006):
        small.write([row(number)])
    small.close()
    assert path.stat().st_size < before / 2


def test_traces_of_any_length_are_bounded_by_bytes(path: Path) -> None:
    store = LocalStore(path, max_traces=1000, max_bytes=1_000_000)
    for number in range(1, 101):
        store.write([row(number, span, attributes={"x": "y" * 500}) for span in range(1, 51)])
    found = store.search(limit=1000)
    assert found[0].span_count == 50
    assert 5 < len(found) < 60
    assert store.trace(f"{100:032x}") is not None
    store.close()
    assert path.stat().st_size < 2_000_000


def test_one_endless_trace_is_bounded_by_bytes(path: Path) -> None:
    store = LocalStore(path, max_bytes=1_000_000)
    for batch in range(100):
        store.write([row(1, batch * 100 + span, attributes={"x": "y" * 500}) for span in range(1, 51)])
    store.close()
    assert path.stat().st_size < 3_000_000


def test_traces_leave_when_they_are_old(path: Path) -> None:
    now = time.time_ns()
    store = LocalStore(path, max_age=3600)
    store.write([row(1, base=now - 7200 * 10**9), row(2, base=now - 1800 * 10**9)])
    store.write([row(3, base=now)])
    assert [int(found.trace_id, 16) for found in store.search()] == [3, 2]
    # The newest stays, whatever its clock says.
    store.write([row(4, base=now - 7200 * 10**9)])
    assert store.trace(f"{4:032x}") is not None
    store.close()


# ----- Spans


def test_late_spans_bring_the_summary_up_to_date(store: LocalStore) -> None:
    store.write([row(1, 3, 2, "db.select.x", start=5, took=1)])
    assert store.search()[0].name == "db.select.x"
    store.write([row(1, 2, 1, "view.x", start=2, took=6, service="billing", status="error")])
    (found,) = store.search()
    assert (found.name, found.service, found.duration, found.span_count) == ("view.x", "billing", 6 * MS, 2)
    # The span without a parent ends last; its clock may be behind.
    store.write([row(1, 1, 0, "GET /x", start=3, took=10)])
    (found,) = store.search()
    assert (found.name, found.service, found.services) == ("GET /x", "shop", ("shop", "billing"))
    assert (found.start, found.duration) == (NOON + 2 * MS, 11 * MS)
    assert (found.span_count, found.error_count) == (3, 1)
    trace = store.trace(f"{1:032x}")
    assert trace is not None
    assert trace.summary() == found


def test_a_batch_sent_twice_is_stored_once(store: LocalStore) -> None:
    rows = [row(1, 1), row(1, 2, 1, status="error")]
    store.write(rows)
    store.write(rows)
    (found,) = store.search()
    assert (found.span_count, found.error_count) == (2, 1)


def test_everything_of_a_span_comes_back(store: LocalStore) -> None:
    written = row(
        0xABC, 0xDE, 0xF, "naïve \udcff name", kind="client", status="error", status_message="no",
        attributes={"text": "ü\udcff\x00", "flag": True, "number": 1, "float": 1.5, "list": [1, 2], "none": None},
        events=[{"name": "exception", "time": NOON, "attributes": {"exception.type": "E"}}],
        links=[{"trace_id": "b" * 32, "span_id": "c" * 16, "attributes": {"why": "x"}}],
    )  # fmt: skip
    store.write([written])
    trace = store.trace("0" * 29 + "abc")
    assert trace is not None
    (span,) = trace.spans
    assert span.name == "naïve ? name"
    for key in ("trace_id", "span_id", "parent_id", "kind", "service", "start", "end", "status", "status_message",
                "attributes", "resource", "scope"):  # fmt: skip
        assert getattr(span, key) == written[key], key
    assert [(event.name, event.time, event.attributes) for event in span.events] == [
        ("exception", NOON, {"exception.type": "E"})
    ]
    assert [(link.trace_id, link.span_id, link.attributes) for link in span.links] == [
        ("b" * 32, "c" * 16, {"why": "x"})
    ]


def test_a_row_that_is_no_span_costs_itself_only(store: LocalStore) -> None:
    broken = [{}, row(trace_state=None) | {"trace_id": "nonsense"}, row() | {"start": None}, row() | {"end": "soon"},
              row() | {"start": 2**70}, row() | {"start": -(2**70)}, row() | {"end": 2**70}]  # fmt: skip
    store.write([*broken, row(5)])
    assert [int(found.trace_id, 16) for found in store.search()] == [5]
    store.write([])
    store.write(broken)


def test_values_that_json_has_no_name_for(store: LocalStore) -> None:
    store.write([row(attributes={"path": Path("/x"), "nan": float("nan")})])
    (span,) = store.trace(f"{1:032x}").spans  # type: ignore[union-attr]
    assert span.attributes["path"] == "/x"


@pytest.mark.parametrize("damage", ["'; DROP TABLE traces; --", '"', "%", "\x00", "\udcff"])
def test_search_takes_any_text(store: LocalStore, damage: str) -> None:
    store.write([row()])
    assert store.search(service=damage, operation=damage, attributes={damage: damage}) == []
    assert len(store.search()) == 1


def test_reading_drops_no_lock_of_the_writer_beside_it(store: LocalStore, path: Path) -> None:
    """Else another process takes itself for the last one, and deletes the log that this one goes on writing to."""
    store.write([row(1)])
    assert store.services() == ["shop"]
    script = """
        import sys
        from django_tracing.traces.readers.sqlite.store import LocalStore
        from tests.traces.builders import row
        store = LocalStore(sys.argv[1])
        store.write([row(2)])
        store.close()
        """
    finished(run(script, path))
    store.write([row(3)])
    assert len(LocalStore(path).search()) == 3
    store.close()
    assert integrity(path) == "ok"
    assert len(LocalStore(path).search()) == 3
