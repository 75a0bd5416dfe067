"""Test some of the faults of ``make faults``, and that the suite itself notices what is missing."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from example_project import servers
from tests.e2e.faults.accounts import WITH_THE_PROCESS, Account, account, given_up
from tests.e2e.faults.process_rows import kill_a_worker
from tests.e2e.faults.rows import Result, Row, Runner, Stage, closed_to_others, failures
from tests.e2e.faults.services import Answer, Databases
from tests.e2e.faults.table import table
from tests.export.socket_servers import hang
from tests.export.test_receiver_faults import status
from tests.jaegers import wait_until


@pytest.fixture(scope="module")
def runner(postgres_url: str, redis_url: str) -> Iterator[Runner]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS faults WITH (FORCE)")
        connection.execute("CREATE DATABASE faults")
        postgres = servers.Server(urlsplit(postgres_url)._replace(path="/faults").geturl())
        with Databases(postgres, servers.Server(redis_url)) as databases:
            yield Runner(databases)
        connection.execute("DROP DATABASE faults WITH (FORCE)")


def _several(stage: Stage) -> None:
    stage.receiver.fault = status(500)
    stage.services.load(20)
    if stage.services.traced:
        wait_until(lambda: account(stage.folder, stage.arrived).dropped["rejected"], "a batch to be refused")
    stage.receiver.fault = hang
    stage.services.load(20)
    kill_a_worker(stage.services)
    stage.receiver.down()
    stage.services.load(20)


def _work_again(stage: Stage) -> None:
    stage.receiver.fault = None
    stage.receiver.up()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finding the workers needs /proc")
def test_faults_one_after_another(runner: Runner) -> None:
    """One row, because each of its own starts four services."""
    result = runner.run(Row("several faults", script=_several, lift=_work_again, killed=True))
    assert (result.failed, result.unaccounted) == (0, 0), result.details
    assert result.requests == 62
    # The 500 is for ever; everything else is tried again, except what the killed process held.
    assert {*result.final.dropped} == {"rejected", WITH_THE_PROCESS}
    assert result.during.waiting > 100
    assert result.final.arrived == result.during.arrived + result.during.waiting


def test_a_folder_that_the_servers_user_may_not_open_is_found() -> None:
    # Not pytest's, which are closed themselves.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "python").mkdir()
        folder.chmod(0o755)
        assert closed_to_others(folder / "python") is None
        folder.chmod(0o700)
        assert closed_to_others(folder / "python") == folder


class TestTheAccount:
    @staticmethod
    def write(folder: Path, *lines: str, pid: int = 0) -> None:
        # No process has the number 0.
        (folder / f"api-gateway.{pid}.spans").write_text("".join(f"{line}\n" for line in lines))

    def test_adds_up(self, tmp_path: Path) -> None:
        self.write(tmp_path, "S a 1", "S b 2", "S c 3", "D queue_full_spans 1", "Q 0")
        found = account(tmp_path, {"a", "b"})
        assert found == Account(made=3, arrived=2, dropped=Counter(queue_full_spans=1))
        assert found.unaccounted == 0

    def test_spans_of_deleted_traces_were_stored_before(self, tmp_path: Path) -> None:
        self.write(tmp_path, "S a 1", "S b 2", "S c 3", "L a one 10", "L b one 30", "L c two 10", "Q 0", pid=0)
        (tmp_path / "users.0.spans").write_text("G one 20\nG one 15\nG three 20\n")
        # One was stored again after its trace was deleted, and the trace of the other was never deleted.
        assert given_up(tmp_path) == {"a"}
        assert account(tmp_path, given_up(tmp_path)).unaccounted == 2

    def test_a_span_that_was_sent_and_did_not_arrive_is_missing(self, tmp_path: Path) -> None:
        self.write(tmp_path, "S a 1", "S b 2", "Q 0")
        assert account(tmp_path, {"a"}).unaccounted == 1

    def test_a_span_that_is_counted_twice(self, tmp_path: Path) -> None:
        self.write(tmp_path, "S a 1", "D shutdown 1")
        assert account(tmp_path, {"a"}).unaccounted == -1

    def test_what_waits_counts_in_a_live_process_only(self, tmp_path: Path) -> None:
        self.write(tmp_path, "S a 1", "Q 1", pid=os.getpid())
        assert account(tmp_path, set()).unaccounted == 0
        self.write(tmp_path, "S b 1", "Q 1")
        assert account(tmp_path, set()).unaccounted == 1

    def test_what_waited_in_a_killed_process_is_lost_with_it_and_no_more(self, tmp_path: Path) -> None:
        self.write(tmp_path, "S a 1", "S b 2", "S c 3", "Q 2")
        found = account(tmp_path, set(), killed=True)
        assert found.dropped == {WITH_THE_PROCESS: 2}
        assert found.unaccounted == 1

    def test_what_waits_in_the_spool_is_buffered(self, tmp_path: Path) -> None:
        self.write(tmp_path, "S a 1", "S b 2")
        found = account(tmp_path, {"a"}, stored=1)
        assert (found.waiting, found.unaccounted) == (1, 0)

    def test_a_span_that_no_process_made_is_unknown(self, tmp_path: Path) -> None:
        self.write(tmp_path, "S a 1")
        assert account(tmp_path, {"a", "b"}).unknown == 1


class TestTheComparison:
    GET = ("GET", "/")

    def test_equal_answers(self) -> None:
        answer = Answer(self.GET, 200, (("content-type", "text/html"),), b"x")
        assert failures([answer], [answer]) == []

    @pytest.mark.parametrize(
        "other",
        [
            Answer(("GET", "/"), 500, (("content-type", "text/html"),), b"x"),
            Answer(("GET", "/"), 200, (("content-type", "text/plain"),), b"x"),
            Answer(("GET", "/"), 200, (("content-type", "text/html"),), b"y"),
            Answer(("GET", "/"), 0),
        ],
    )
    def test_another_answer_is_a_failure(self, other: Answer) -> None:
        answer = Answer(self.GET, 200, (("content-type", "text/html"),), b"x")
        assert len(failures([answer], [other])) == 1

    def test_only_as_many_may_have_no_answer_as_without_tracing(self) -> None:
        answer, none = Answer(self.GET, 200), Answer(self.GET, 0)
        assert failures([answer, none], [none, answer]) == []
        assert len(failures([answer, none], [none, none])) == 1


def test_the_table() -> None:
    during = Account(made=9, arrived=3, waiting=5, dropped=Counter(rejected=1))
    final = Account(made=9, arrived=7, dropped=Counter(rejected=1))
    text = table({"The receiver": [Result(Row("500"), 2, 0, during, final)]})
    cells = [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")]
    assert cells == ["500", "2", "0", "9", "3", "5", "4", "rejected 1", "1"]
