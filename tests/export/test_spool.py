"""Test the folder of batches: whole records or none, bounds, hostile files, and many processes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from django_tracing.export.spool import Spool, StoredBatch, can_spool
from django_tracing.export.wire import EncodedBatch
from tests.export.builders import make_spans
from tests.jaegers import wait_until
from tests.receivers import decode

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs flock()"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
fcntl = pytest.importorskip("fcntl")
MIB = 1024 * 1024


def encode(count: int = 1, name: str = "span", **attributes: object) -> EncodedBatch:
    batch = EncodedBatch()
    for span in make_spans(count, name=name, **attributes):
        batch.add(span, *batch.pack(span))
    return batch


def names(batch: StoredBatch | EncodedBatch) -> list[str]:
    return [span.name for span in decode(b"".join(batch.message()))]


def drain(spool: Spool) -> list[str]:
    """Return the names of all spans, in the order of the batches, and remove these."""
    found: list[str] = []
    while (batch := spool.claim()) is not None:
        found += names(batch)
        spool.remove(batch)
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 64 * MIB)


def test_this_system_can() -> None:
    assert can_spool()


class TestStoring:
    def test_oldest_first_and_once(self, spool: Spool) -> None:
        for number in range(4):
            spool.store(encode(2, f"batch{number}"))
        assert spool.contents()[:2] == (4, 8)
        assert drain(spool) == [f"batch{number}-{span}" for number in range(4) for span in range(2)]
        assert spool.contents() == (0, 0, 0, None)

    def test_only_this_user_can_read_it(self, spool: Spool) -> None:
        os.umask(os.umask(0))  # whatever it is
        spool.store(encode())
        assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
        for file in spool.folder.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file

    def test_the_folder_and_those_above_it_are_made(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "above" / "spool", MIB)
        spool.store(encode())
        assert spool.contents().spans == 1

    def test_the_oldest_make_room(self, tmp_path: Path) -> None:
        size = 24_000
        spool = Spool(tmp_path, 4 * (size + 2000))
        dropped = [spool.store(encode(3, f"batch{number}", text="x" * (size // 3))) for number in range(7)]
        assert dropped == [0, 0, 0, 0, 3, 3, 3]
        assert spool.contents().bytes <= spool.max_bytes
        assert drain(spool)[0] == "batch3-0"

    def test_a_batch_larger_than_the_spool(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, 10_000)
        spool.store(encode())
        with pytest.raises(OSError, match="larger than the spool"):
            spool.store(encode(text="x" * 20_000))
        assert spool.contents().spans == 1

    def test_a_batch_of_exactly_the_size_of_the_spool(self, spool: Spool, tmp_path: Path) -> None:
        spool.store(encode(name="first"))
        size = spool.contents().bytes
        exact = Spool(tmp_path / "exact", size)
        assert [exact.store(encode(name=name)) for name in ("first", "other")] == [0, 1]
        assert exact.contents()[:3] == (1, 1, size)
        with pytest.raises(OSError, match=f"A batch of {size} bytes is larger than the spool"):
            Spool(tmp_path / "small", size - 1).store(encode(name="first"))

    def test_one_that_is_being_sent_is_not_removed(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, 24_000)
        spool.store(encode(name="first", text="x" * 10_000))
        first = spool.claim()
        assert first is not None
        spool.store(encode(name="second", text="x" * 10_000))
        assert spool.store(encode(name="third", text="x" * 10_000)) == 1
        spool.give_back(first)
        assert drain(spool) == ["first-0", "third-0"]

    def test_the_number_of_files_is_bounded(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("django_tracing.export.spool._MOST_RECORDS", 5)
        assert sum(spool.store(encode(name=f"s{number}")) for number in range(12)) == 7
        assert spool.contents().batches == 5

    def test_all_that_waits_is_being_sent(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, 24_000)
        for name in ("first", "second"):
            spool.store(encode(name=name, text="x" * 10_000))
        claimed = [spool.claim(), spool.claim()]
        with pytest.raises(OSError, match="full of batches that are being sent"):
            spool.store(encode(name="third", text="x" * 10_000))
        assert [names(batch) for batch in claimed if batch is not None] == [["first-0"], ["second-0"]]
        assert spool.contents().spans == 2

    def test_a_process_that_stopped_while_it_stored(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("django_tracing.export.spool._LOCK_WAIT", 0.05)
        spool.prepare()
        with spool._locked_folder():
            with pytest.raises(OSError, match="Another process does not release the spool"):
                Spool(spool.folder, MIB).store(encode())
            assert spool.contents().spans == 0
        spool.store(encode())
        assert spool.contents().spans == 1

    @pytest.mark.parametrize("sync", [True, False])
    def test_the_disk_has_all_of_it_before_it_gets_its_name(
        self, sync: bool, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[object] = []
        fsync, rename = os.fsync, os.rename
        monkeypatch.setattr(os, "fsync", lambda file: calls.append(os.fstat(file).st_size) or fsync(file))  # type: ignore[func-returns-value]
        monkeypatch.setattr(os, "rename", lambda *paths: calls.append("rename") or rename(*paths))  # type: ignore[func-returns-value]
        spool.store(encode(), sync=sync)
        assert calls == ([spool.contents().bytes, "rename"] if sync else ["rename"])

    def test_a_disk_that_fails_leaves_nothing(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(file: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            spool.store(encode())
        assert [path.name for path in spool.folder.iterdir()] == ["lock"]

    def test_what_a_killed_process_has_begun_is_removed(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        def die(*paths: object) -> None:
            os._exit(0)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", die)
            os.waitpid(fork(lambda: spool.store(encode())), 0)
        [begun] = [path for path in spool.folder.iterdir() if path.name != "lock"]
        assert spool.claim() is None
        os.utime(begun, (time.time() - 4000,) * 2)
        spool.store(encode())
        assert not begun.exists()

    def test_when_the_oldest_was_stored(self, spool: Spool) -> None:
        before = time.time()
        spool.store(encode())
        after = time.time()
        spool.store(encode())
        oldest = spool.contents().oldest
        assert oldest is not None
        assert before - 0.001 <= oldest <= after + 0.001

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match=r"."):
            Spool(tmp_path / "file", MIB).store(encode())

    def test_what_killed_writers_left_is_removed(self, spool: Spool) -> None:
        spool.store(encode())
        old, new = (spool.folder / f"{number:020d}-1-1-1.new" for number in (1, 2))
        for path in (old, new):
            path.touch()
        os.utime(old, (time.time() - 4000,) * 2)
        spool.store(encode())
        assert not old.exists()
        assert new.exists()
        assert spool.contents().batches == 2
        os.utime(new, (time.time() - 4000,) * 2)
        # To look, or to take a batch, changes nothing else.
        assert spool.contents().batches == 2
        assert (claimed := spool.claim()) is not None
        spool.give_back(claimed)
        assert new.exists()
        assert spool.empty() == 2
        assert [path.name for path in spool.folder.iterdir()] == ["lock"]


class TestClaims:
    def test_a_batch_belongs_to_one_process(self, spool: Spool) -> None:
        for number in range(2):
            spool.store(encode(name=f"s{number}"))
        other = Spool(spool.folder, MIB)
        mine, theirs = spool.claim(), other.claim()
        assert mine is not None and theirs is not None
        assert names(mine) + names(theirs) == ["s0-0", "s1-0"]
        assert spool.claim() is None
        spool.give_back(mine)
        again = other.claim()
        assert again is not None
        assert names(again) == ["s0-0"]
        assert spool.empty() == 0
        for batch in (theirs, again):
            other.remove(batch)

    def test_what_is_left_out(self, spool: Spool) -> None:
        for number in range(2):
            spool.store(encode(name=f"s{number}"))
        first = spool.claim()
        assert first is not None
        spool.give_back(first)
        # Another object reads the folder, and finds the first one, too.
        second = Spool(spool.folder, MIB).claim({first.name})
        assert second is not None
        assert names(second) == ["s1-0"]
        spool.remove(second)

    def test_one_that_was_given_back_goes_before_newer_ones(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("django_tracing.export.spool._LIST_AGAIN", 0.0)
        for number in range(3):
            spool.store(encode(name=f"s{number}"))
        first = spool.claim()
        assert first is not None
        spool.give_back(first)
        assert drain(spool) == ["s0-0", "s1-0", "s2-0"]

    @pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
    def test_no_descriptor_stays_open(self, spool: Spool) -> None:
        before = os.listdir("/proc/self/fd")
        for number in range(4):
            spool.store(encode(name=f"s{number}"))
        first, second = spool.claim(), spool.claim()
        assert first is not None and second is not None
        # Of two: one that another process holds, and one that is damaged.
        assert spool._open(first.name) is None
        [damaged] = sorted(spool.folder.glob("*.spans"))[2:3]
        damaged.write_bytes(b"x")
        spool.give_back(first)
        spool.remove(second)
        fourth = spool.claim()
        assert fourth is not None and names(fourth) == ["s3-0"]
        spool.give_back(fourth)
        assert spool.empty() == 2
        assert os.listdir("/proc/self/fd") == before

    def test_one_that_another_process_removes_meanwhile(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(5):
            spool.store(encode(name=f"s{number}"))
        scandir = os.scandir

        class Listed(list[os.DirEntry[str]]):
            def __enter__(self) -> Listed:
                return self

            def __exit__(self, *_: object) -> None:
                pass

        def list_and_remove(path: Path) -> Listed:
            with scandir(path) as entries:
                listed = Listed(entries)
            # Whatever order the folder has, others come after it.
            next(path / entry.name for entry in listed if entry.name.endswith(".spans")).unlink()
            return listed

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", list_and_remove)
            assert spool.contents().batches == 4
        assert len(drain(spool)) == 4

    def test_empty(self, spool: Spool) -> None:
        spool.store(encode(3))
        spool.store(encode(4))
        assert spool.empty() == 7
        assert spool.claim() is None

    def test_claiming_all_reads_the_folder_a_few_times(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(50):
            spool.store(encode(name=f"s{number}"), sync=False)
        calls: list[object] = []
        scandir = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: calls.append(path) or scandir(path))  # type: ignore[func-returns-value]
        assert len(drain(spool)) == 50
        assert len(calls) <= 3


class TestHostileFiles:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_record_is_whole_or_ignored(self, tmp_path: Path, data: st.DataObject) -> None:
        spool = Spool(tmp_path / "spool", 64 * MIB)
        spool.empty()
        spool.store(encode(2))
        [path] = spool.folder.glob("*.spans")
        content = path.read_bytes()
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 30)))
        changed = content[:start] + data.draw(st.binary(max_size=30)) + content[end:]
        path.write_bytes(changed)
        batch = spool.claim()
        if changed == content:
            assert batch is not None
            spool.remove(batch)
            return
        assert batch is None
        assert spool.take_damaged() == 2
        assert not path.exists()

    def test_other_files_are_left_alone(self, spool: Spool) -> None:
        spool.store(encode())
        for name in (
            "README",
            "x.spans",
            "1-2-3-4.spans",
            f"{'9' * 20}-1-1-99999999.spans",
            f"{'٣' * 20}-1-1-1.spans",
        ):
            (spool.folder / name).write_bytes(b"x")
        assert spool.contents().batches == 1
        assert drain(spool) == ["span-0"]
        assert spool.empty() == 0
        assert len(list(spool.folder.iterdir())) == 6

    def test_what_is_no_file(self, spool: Spool, tmp_path: Path) -> None:
        spool.prepare()
        secret = tmp_path / "secret"
        secret.write_bytes(b"s3cret")
        (spool.folder / f"{1:020d}-1-1-1.spans").symlink_to(secret)
        (spool.folder / f"{2:020d}-1-1-1.spans").mkdir()
        os.mkfifo(spool.folder / f"{3:020d}-1-1-1.spans")
        # Opening a pipe would wait for a writer.
        assert spool.claim() is None
        assert spool.contents().batches == 0
        assert secret.exists()

    def test_a_link_in_the_place_of_the_lock(self, spool: Spool, tmp_path: Path) -> None:
        """Nobody else makes this user write a file elsewhere."""
        spool.prepare()
        elsewhere = tmp_path / "elsewhere"
        (spool.folder / "lock").symlink_to(elsewhere)
        with pytest.raises(OSError, match="symbolic links"):
            spool.store(encode())
        assert not elsewhere.exists()

    def test_what_is_no_file_any_more(self, spool: Spool) -> None:
        for number in range(3):
            spool.store(encode(name=f"s{number}"))
        first = spool.claim()
        assert first is not None
        # Only now: the folder was read by then.
        second = spool.folder / sorted(path.name for path in spool.folder.glob("*.spans"))[1]
        second.unlink()
        os.mkfifo(second)
        third = spool.claim()
        assert third is not None and names(third) == ["s2-0"]
        assert spool.take_damaged() == 0

    def test_one_that_is_replaced_while_it_is_opened(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """The lock is that of the old file: another process may hold the one of the new file."""
        spool.store(encode())
        [path] = spool.folder.glob("*.spans")
        lock = fcntl.flock

        def replace_and_lock(descriptor: int, operation: int) -> None:
            os.replace(shutil.copy(path, path.with_name("copy")), path)
            lock(descriptor, operation)

        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", replace_and_lock)
            assert spool.claim() is None
        assert drain(spool) == ["span-0"]

    def test_a_huge_file_is_not_read(self, spool: Spool) -> None:
        spool.prepare()
        path = spool.folder / f"{1:020d}-1-1-7.spans"
        with open(path, "wb") as file:
            file.truncate(65 * MIB)  # without using the disk
        tracemalloc.start()
        try:
            assert spool.claim() is None
            assert tracemalloc.get_traced_memory()[1] < MIB
        finally:
            tracemalloc.stop()
        assert spool.take_damaged() == 7
        assert not path.exists()

    def test_a_link_in_the_place_of_a_new_file(
        self, spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spool.prepare()
        monkeypatch.setattr(time, "time_ns", lambda: 7)
        secret = tmp_path / "secret"
        secret.write_bytes(b"s3cret")
        (spool.folder / f"{7:020d}-{os.getpid()}-1-1.new").symlink_to(secret)
        with pytest.raises(FileExistsError):
            spool.store(encode())
        assert secret.read_bytes() == b"s3cret"
        assert spool.contents().batches == 0


class TestSplitting:
    @given(st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 1))
    @settings(max_examples=30, deadline=None)
    def test_halves_have_all_spans(self, sizes: list[int]) -> None:
        batch = EncodedBatch()
        for number, size in enumerate(sizes):
            for span in make_spans(size, name=f"part{number}"):
                batch.add(span, *batch.pack(span))
        expected = names(batch)
        stored = StoredBatch("", batch.count, b"".join(batch.message()), -1)
        for ours, theirs in zip(stored.split(), batch.split(), strict=True):
            # No field more or less, though their order differs.
            assert ExportTraceServiceRequest.FromString(ours.encoded) == ExportTraceServiceRequest.FromString(
                b"".join(theirs.message())
            )
            assert ours.size == len(ours.encoded)
        for halves in (stored.split(), batch.split()):
            assert [half.count for half in halves] == [batch.count // 2, batch.count - batch.count // 2]
            assert sum((names(half) for half in halves), []) == expected
            for half in halves:
                [service] = {span.service for span in decode(b"".join(half.message()))}
                assert service == "shop"

    @given(st.binary(max_size=100))
    def test_garbage(self, garbage: bytes) -> None:
        for half in StoredBatch("", 5, garbage, -1).split():
            assert len(half.encoded) <= 2 * len(garbage) + 20


def fork(work: Callable[[], object]) -> int:
    """Run ``work`` in a child process. Return its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def write(spool: Spool, name: str) -> None:
    for number in range(50):
        spool.store(encode(3, f"{name}-{number}", text="x" * 5000), sync=False)


def read(spool: Spool, out: Path) -> None:
    with open(out, "w") as file:
        file.write("\n".join(drain(spool)))


class TestProcesses:
    def test_kill_at_any_moment_leaves_whole_records(self, spool: Spool) -> None:
        """Forked writers, so that many can be killed: each at another moment of storing."""
        batches = [encode(3, f"batch{number}", text="x" * 20_000) for number in range(200)]
        expected = {tuple(names(batch)) for batch in batches}
        for _ in range(20):
            reading, writing = os.pipe()

            def store_all(writing: int = writing) -> None:
                for batch in batches:
                    spool.store(batch, sync=False)
                    os.write(writing, b"x")

            child = fork(store_all)
            os.close(writing)
            stored = len(os.read(reading, 1))
            # Another moment each time. There is nothing to wait for.
            time.sleep(random.random() * 0.005)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            while data := os.read(reading, 4096):
                stored += len(data)
            os.close(reading)
            contents = spool.contents()
            assert contents.batches >= stored
            found = []
            while (batch := spool.claim()) is not None:
                found.append(tuple(names(batch)))
                spool.remove(batch)
            assert len(found) == contents.batches
            assert set(found) <= expected
            assert found == sorted(found, key=lambda batch: int(batch[0].split("-")[0][5:]))
            assert spool.take_damaged() == 0

    def test_a_claim_ends_with_its_process(self, spool: Spool) -> None:
        spool.store(encode(name="claimed"))
        reading, writing = os.pipe()

        def claim_and_wait() -> None:
            assert spool.claim() is not None
            os.write(writing, b"x")
            signal.pause()

        child = fork(claim_and_wait)
        assert os.read(reading, 1) == b"x"
        assert spool.claim() is None
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for descriptor in (reading, writing):
            os.close(descriptor)
        assert drain(spool) == ["claimed-0"]

    def test_many_writers_and_readers(self, spool: Spool, tmp_path: Path) -> None:
        spool.prepare()
        children = [fork(lambda name=name: write(spool, name)) for name in "ab"]  # type: ignore[misc]
        outs = [tmp_path / f"read{number}" for number in range(3)]
        wait_until(lambda: spool.contents().batches, "the first batch")
        children += [fork(lambda out=out: read(spool, out)) for out in outs]  # type: ignore[misc]
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        found = drain(spool)
        for out in outs:
            found += out.read_text().split()
        assert len(found) == len(set(found)) == 2 * 50 * 3
        assert spool.take_damaged() == 0

    def test_many_writers_keep_the_bound(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, 300_000)
        children = [fork(lambda name=name: write(spool, name)) for name in "ab"]  # type: ignore[misc]
        left = set(children)
        while left:
            # Otherwise a file could be counted that is removed before the next one is.
            with spool._locked_folder():
                assert spool.contents().bytes <= spool.max_bytes
            for child in list(left):
                finished, status = os.waitpid(child, os.WNOHANG)
                if finished:
                    assert status == 0
                    left.remove(child)
        assert 250_000 < spool.contents().bytes <= spool.max_bytes
