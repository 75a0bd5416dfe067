"""Test the local store's file: its permissions, older versions, damage, and files of other programs."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from django_tracing.exceptions import StoreError
from django_tracing.protobuf import field
from django_tracing.traces.readers.sqlite import file as file_module
from django_tracing.traces.readers.sqlite.chunks import MOST_BYTES
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import MS, exception, row
from tests.traces.readers.sqlite.helpers import REPOSITORY, finished, integrity, run, set_asides
from tests.traces.readers.sqlite.old_files import write_old_file


def modes(folder: Path) -> dict[str, str]:
    return {each.name: oct(each.stat().st_mode & 0o777) for each in folder.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("name", [".tracing", "elsewhere"])
def test_the_files_are_readable_only_by_their_user(tmp_path: Path, mask: int, name: str) -> None:
    """With any umask, and including SQLite's log and its index, which exist while a writer is open."""
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
def test_permissions_of_an_older_store_are_restricted(store: LocalStore, path: Path) -> None:
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
def test_an_existing_folder_is_unchanged(tmp_path: Path) -> None:
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
def test_a_file_set_aside_is_readable_only_by_its_user(store: LocalStore, path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o644)
    store.write([row()])
    assert set(modes(path.parent).values()) == {"0o600"}
    assert len(set_asides(path)) == 1


def test_nothing_is_created_before_the_first_write(store: LocalStore, path: Path) -> None:
    assert store.search() == []
    assert store.services() == []
    assert store.operations("shop") == []
    assert store.trace("a" * 32) is None
    assert not path.parent.exists()


def test_git_ignores_a_folder_that_the_store_created(store: LocalStore, path: Path) -> None:
    store.write([row()])
    assert (path.parent / ".gitignore").read_text() == "*\n"


def test_a_folder_with_other_files_is_unchanged(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "traces.sqlite3")
    store.write([row()])
    store.close()
    assert [each.name for each in tmp_path.iterdir()] == ["traces.sqlite3"]


def test_a_file_deleted_under_the_writer_is_created_again(store: LocalStore, path: Path) -> None:
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
def test_a_file_that_is_not_a_database_is_set_aside(
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


def test_reading_a_file_that_is_not_a_database_finds_nothing(store: LocalStore, path: Path) -> None:
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
        (b"GET /items", b"GET /it\xffms"),
        (b"CREATE TABLE traces", b"CREATE TABLE tr\xffces"),
    ],
)
def test_damage_that_sqlite_does_not_detect(store: LocalStore, path: Path, written: bytes, damaged: bytes) -> None:
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
    check_damage(store)


#: What may be in place of a compressed message, as SQL or as the message.
DAMAGED: list[Any] = [
    *("7", "'x'", "x''", "substr(message, 1, length(message) - 5)", "substr(message, 9)"),
    *(b"", b"\x0a", b"\x0a\x05abc", b"\xff" * 20, b"\x0a\x02\x12\x00" + b"\x0a" * 9),
    # A span without ids, and one of another trace.
    field(0x0A, field(0x12, field(0x12, b"\x12\x08" + b"1" * 8))),
    field(0x0A, field(0x12, field(0x12, b"\x0a\x10" + b"1" * 16))),
    # What is no text, a time of the far future, and a number without an end.
    *(
        field(0x0A, field(0x12, field(0x12, b"\x0a\x10" + bytes(15) + b"\x01\x12\x08" + b"1" * 8 + rest)))
        for rest in (field(0x2A, b"\xff"), b"\x39" + b"\xff" * 8, b"\x30" + b"\xff" * 11, field(0x4A, b"\x0a\x7f"))
    ),
    # What is larger than anything that this app writes.
    bytes(MOST_BYTES + 1),
]


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: repr(damage)[:40])
def test_a_damaged_chunk(store: LocalStore, path: Path, damage: Any) -> None:
    store.write([row(1, 1, 0, "GET /items", attributes={"color": "red"}), row(1, 2, 1, "db.select.x")])
    store.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        value = damage if isinstance(damage, str) else f"x'{zlib.compress(damage).hex()}'"
        with suppress(sqlite3.IntegrityError):
            connection.execute(f"UPDATE chunks SET message = {value}")
        connection.execute("UPDATE traces SET has_root = 0")
        connection.execute("DELETE FROM figures")
    check_damage(store)


def test_a_damaged_chunk_is_damaged_for_each_of_its_traces(store: LocalStore, path: Path) -> None:
    """The first one that can't be read must not leave figures without spans to the others."""
    store.write([row(1, 1, 0, "GET /items"), row(2, 1, 0, "GET /items"), row(3, 1, 0, "GET /items")])
    with closing(sqlite3.connect(path)) as connection, connection:
        ((message,),) = connection.execute("SELECT message FROM chunks").fetchall()
        damaged = zlib.compress(zlib.decompress(message) + b"\xff")
        connection.execute("UPDATE chunks SET message = ?", [damaged])
    store.write([row(4)])
    while store.work_in_pause():
        pass
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM figures").fetchone() == (0,)
    with pytest.raises(StoreError):
        store.routes()


def check_damage(store: LocalStore) -> None:
    """Check that what can't be read is a clear error, and no reason to lose anything."""
    messages = []
    for use in (
        store.services,
        lambda: store.operations("shop"),
        store.search,
        lambda: store.search(attributes={"color": "red"}),
        lambda: store.trace(f"{1:032x}"),
        store.routes,
        store.dependencies,
    ):
        try:
            use()
        except StoreError as error:
            messages.append(str(error))
    assert messages
    assert all("created again with the next trace" in message for message in messages)
    # Another span of the trace, and another trace.
    store.write([row(1, 3, 1), row(7)])
    assert store.trace(f"{7:032x}") is not None


REQUEST = {"http.method": "GET", "http.url": "https://x.test/x/7?a=1", "http.status_code": 200, "user.id": 42}


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_a_file_of_an_older_version_is_migrated(path: Path, version: int) -> None:
    """From before spans had a category, traces had a limit and a request, figures were kept, and spans were chunks."""
    spans = [
        row(1, 1, 0, "GET /x", kind="server", took=9, attributes=REQUEST, events=[exception()], status="error"),
        row(1, 2, 1, "db.select.x", kind="client", took=4, attributes={"db.system": "postgresql", "db.name": "x"}),
        *(row(7, number, attributes={"deep": [{"a": [1, None, 1.5]}]}) for number in range(1, 1500)),
    ]
    write_old_file(path, version, spans, left_out=3 if version > 2 else 0)
    store = LocalStore(path)
    with pytest.raises(StoreError, match="older version of this app. It is migrated with the next trace"):
        store.search()
    store.write([row(2)])
    assert store.search()[-1].left_out == (3 if version > 2 else 0)
    assert len(list(store.stream(f"{7:032x}").spans)) == 1499  # type: ignore[union-attr]
    trace = store.trace(f"{1:032x}")
    assert trace is not None
    expected = LocalStore(path.with_name("new.sqlite3"))
    expected.write(spans)
    assert trace.spans == expected.trace(trace.trace_id).spans  # type: ignore[union-attr]
    assert integrity(path) == "ok"
    assert not set_asides(path)
    expected.close()
    for each in path.parent.glob("new.sqlite3*"):
        each.unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM traces WHERE trace_id = ?", (f"{7:032x}",))
    assert [int(found.trace_id, 16) for found in store.search()] == [2, 1]
    old = store.search()[1]
    assert (old.method, old.path, old.status_code, old.user) == ("GET", "/x/7", 200, "42")
    assert (old.sql_count, old.sql_time) == (1, 4 * MS)
    (link,) = store.dependencies().links
    assert (link.caller, link.callee, link.kind) == ("shop", "postgresql x", "database")
    assert store.routes()[0].time_by_work == {"python": 6 * MS, "sql": 4 * MS}
    store.close()
    assert list(path.parent.glob("*.corrupt*")) == []


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


def test_tables_in_another_programs_write_ahead_log_are_detected(store: LocalStore, path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE customers (name TEXT)")
    for _ in range(2):
        with pytest.raises(StoreError, match="another program's database"):
            store.write([row()])
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]
    connection.close()


def test_processes_that_find_a_damaged_file_at_once_share_the_new_one(path: Path) -> None:
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
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert integrity(path) == "ok"
    assert len(LocalStore(path).search(limit=1000)) == 80


def output_as_another_user(script: str, *arguments: object) -> str:
    """Return the output of ``script``, run as a user without write permissions."""
    return finished(
        run(
            """
            # Import before changing the user, who may not be able to read the modules.
            import os, sys, urllib.parse
            sys.path.insert(0, ".")
            from django_tracing.exceptions import StoreError
            from django_tracing.traces.readers.sqlite.store import LocalStore
            from tests.traces.builders import noise, row
            if os.geteuid() == 0:
                os.setuid(65534)
            """
            + script,
            *arguments,
        )
    )


@pytest.fixture
def open_folder(without_coverage: None) -> Iterator[Path]:
    """Yield a folder that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        yield Path(name)
        Path(name).chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("inside", ["traces.sqlite3", "new/traces.sqlite3"])
def test_a_folder_without_write_permission(open_folder: Path, inside: str) -> None:
    script = """
            try:
                LocalStore(sys.argv[1]).write([row()])
            except StoreError as error:
                print(error.reason, error)
            print(LocalStore(sys.argv[1]).search())
            """
    out = output_as_another_user(script, open_folder / inside)
    assert out.startswith("read_only ")
    assert str(open_folder) in out
    assert "set LOCAL_STORE to another path" in out
    assert out.endswith("[]\n")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_read_only_store(open_folder: Path) -> None:
    open_folder.chmod(0o755)
    store = LocalStore(open_folder / "traces.sqlite3")
    # The store stays open, as in a server while another user views its traces.
    store.write([row()])
    # With any umask and any user: the files may only be read.
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
    out = output_as_another_user(script, store.path)
    store.close()
    assert out.startswith("1\nread_only ")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs two users")
def test_the_error_for_another_user_names_the_owner(open_folder: Path) -> None:
    open_folder.chmod(0o755)
    store = LocalStore(open_folder / "new" / "traces.sqlite3")
    store.write([row()])
    script = """
            for use in (lambda store: store.search(), lambda store: store.write([row(2)])):
                try:
                    use(LocalStore(sys.argv[1]))
                except StoreError as error:
                    print(error.reason, error)
            """
    out = output_as_another_user(script, store.path)
    store.close()
    assert out.count("read_only ") == 2
    assert "only the user that the site runs as may read it. Run this as that user" in out


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
def test_a_full_disk(path: Path) -> None:
    out = finished(
        run(
            """
            import resource, sys
            sys.path.insert(0, ".")
            from django_tracing.exceptions import StoreError
            from django_tracing.traces.readers.sqlite.store import LocalStore
            from tests.traces.builders import noise, row
            store = LocalStore(sys.argv[1])
            store.write([row(1)])
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
            try:
                store.write([row(2, number, attributes={"x": noise(1000)}) for number in range(1, 1000)])
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
    # A batch is written completely or not at all, and writing continues when there is space.
    assert out.endswith("[1]\n2\n")
    assert integrity(path) == "ok"
    assert not set_asides(path)


def test_a_lock_that_is_not_released(store: LocalStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "BUSY_TIMEOUT", 0.05)
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
