"""Test the local store with many processes and threads at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import NOON, row
from tests.traces.readers.sqlite.helpers import finished, integrity, run

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
            # A reader never sees half of a batch; the second read may see more than the first.
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


def test_a_killed_writer_leaves_a_usable_store(path: Path) -> None:
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
def test_a_store_that_is_deleted_during_a_fork(path: Path) -> None:
    """As by a thread that drops it meanwhile: neither process waits for its lock."""
    script = """
        import os, sys
        stores = []
        # Called after the hook of the store, which is registered later.
        os.register_at_fork(before=stores.clear)
        from django_tracing.traces.readers.sqlite.store import LocalStore
        from tests.traces.builders import row
        stores.append(LocalStore(sys.argv[1]))
        stores[0].write([row()])
        child = os.fork()
        if child == 0:
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        print(len(LocalStore(sys.argv[1]).search()))
    """
    assert finished(run(script, path)) == "1\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_store_works_after_a_fork(path: Path) -> None:
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


def test_a_store_left_open_prints_nothing_at_exit(path: Path) -> None:
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
