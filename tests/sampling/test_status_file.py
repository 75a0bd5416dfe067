"""Test the status and counts of processes in a file beside the local store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_tracing.sampling.status_file import StatusFile
from tests.sampling.processes import run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the site uses flock")


PAGES = """
    import re
    from django.test import Client
    from django.contrib.auth.models import User
    from django_tracing.models import *
    settings.TRACING = {**settings.TRACING, "LOCAL_STORE": store()}
    from django_tracing.conf.loading import get_settings
    get_settings.cache_clear()
    client = Client()
    client.force_login(User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)[0])

    def page(name, **asked):
        answer = client.get(f"/admin/django_tracing/{name}/", asked)
        assert answer.status_code == 200
        return answer.content.decode()
    """


def test_pages_show_the_status_of_this_sites_processes(tmp_path: Path) -> None:
    script = (
        """
    set_up(sys.argv[1])
    """
        + PAGES
        + """
    SamplingRule.objects.create(name="half", rate=50)
    SamplingRule.objects.create(name="unmet", method="POST")
    assert "No process has reported" in page("processstatus")
    for index in range(2):
        refresher = make(lambda: {"exporter": "otlp", "exported": 4711 + index})
        refresher._process = f"p{index}"
        refresher.refresh()
        decide(refresher, 100)
        refresher.refresh()
        decide(refresher, 100)
        refresher.refresh()
    assert refresher._processes == 2, "they share what a rule may keep a second"
    text = page("processstatus")
    assert "4711" in text and "4712" in text and text.count("SAMPLE_RATE 1.0, half") == 2
    text = page("samplingrule")
    kept, over = ([int(n) for n in re.findall(f'field-{name}">([0-9]+)<', text)] for name in ("kept", "passed_over"))
    assert kept[1] == over[1] == 0 and kept[0] + over[0] == 400 and kept[0] > 0, (kept, over)
    assert not ProcessStatus.objects.exists() and not SamplingCount.objects.exists()
    """
    )
    run(script, tmp_path)
    # Another site that shares the folder of the store has separate processes, rules and counts.
    other = (
        """
    import os
    path = set_up(sys.argv[1], name=os.path.join(sys.argv[1], "other.sqlite3"))
    """
        + PAGES
        + """
    SamplingRule.objects.create(name="theirs")
    assert "No process has reported" in page("processstatus")
    assert 'field-kept">0<' in page("samplingrule")
    """
    )
    run(other, tmp_path)
    folder = tmp_path / ".tracing"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert {file.name for file in folder.iterdir()} == {
        ".gitignore",
        "traces.rules-changed",
        "traces.status.sqlite3",
    }


def test_old_processes_and_counts_are_deleted(tmp_path: Path) -> None:
    script = """
        set_up(sys.argv[1])
        from datetime import datetime, timedelta
        from django.utils import timezone
        from django_tracing.models import *
        from django_tracing.sampling.figures import figures
        refresher = make()
        where = figures(refresher.settings)
        rule = SamplingRule.objects.create(name="all")
        now = timezone.now().replace(second=0, microsecond=0)

        def sums():
            return where.with_counts(SamplingRule.objects.all()).values_list("kept_sum", "passed_over_sum").get()

        for hours in (0, 0.5, 1.5, 3):
            counts = {rule.pk: (1, 10), None: (5, 5)}
            where.add_counts("p", now - timedelta(hours=hours), counts)
            assert counts == {}
        assert sums() == (2, 20), "of the last hour"
        where.delete_old()
        assert len(where._file().counts(0)) == 2
        assert where._file().counts(0)[rule.pk] == (3, 30)
        refresher.refresh()
        [live] = where.processes()
        gone = ProcessStatus(process="gone", service="shop", host="h", pid=1, started=now, updated=now)
        gone.updated -= timedelta(seconds=100)
        where.store_status(gone)
        assert [row.pk for row in where.processes()] == [live.pk]
        refresher._status_stored = float("-inf")
        refresher.refresh()
        assert refresher._processes == 1, "processes that ended don't share the budget"
        """
    run(script, tmp_path)


@pytest.mark.parametrize("kept", [0, 100, 4096])
def test_a_damaged_status_file_is_replaced(tmp_path: Path, kept: int) -> None:
    script = """
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        set_up(sys.argv[1])
        from django_tracing.models import *
        from django_tracing.sampling.figures import figures
        SamplingRule.objects.create(name="one")
        refresher = make()
        work(refresher)
        file = Path(store()).with_name("traces.status.sqlite3")
        with open(file, "r+b") as damaged:
            damaged.seek(int(sys.argv[2]))
            damaged.write(b"x" * 4096)
        for _ in range(3):
            work(refresher)
        assert names(refresher) == ["one"]
        print(len(figures(refresher.settings).processes()))
        """
    recorded, processes = run(script, tmp_path, kept).splitlines()
    assert "is created again" in recorded
    assert processes == "1"


def test_a_status_that_cannot_be_stored_is_logged_once_and_shown_on_the_page(tmp_path: Path) -> None:
    (tmp_path / ".tracing").write_text("a file where the folder should be")
    script = (
        """
    import logging
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    set_up(sys.argv[1])
    """
        + PAGES
        + """
    SamplingRule.objects.create(name="one")
    refresher = make()
    for _ in range(3):
        work(refresher)
    assert names(refresher) == ["one"], "rules are read all the same"
    assert "can&#x27;t be read (Not a directory)" in page("processstatus")
    assert 'field-kept">0<' in page("samplingrule")
    """
    )
    out = run(script, tmp_path)
    assert len(out.splitlines()) == 1
    assert out.startswith("The status of this process can't be stored: ")


def test_a_process_that_ends_writes_nothing(tmp_path: Path) -> None:
    """It writes neither to the site's database nor to the file, so it ends as quickly as before, as if it were killed."""
    script = """
        import atexit
        path = set_up(sys.argv[1])
        from django_tracing.models import *
        from tests.jaegers import wait_until
        SamplingRule.objects.create(name="one")
        connection.close()
        refresher = make(refresh=3600)
        refresher.factory.decide(None, "GET", None, None, 1)
        status = Path(store()).with_name("traces.status.sqlite3")
        wait_until(lambda: names(refresher) and not refresher._status_stored < 0, "the thread's first look")
        opened.clear()
        before = [file.read_bytes() for file in (path, status)]
        atexit.register(lambda: print(opened, [file.read_bytes() for file in (path, status)] == before))
        """
    assert run(script, tmp_path) == "[] True\n"


def test_a_page_waits_at_most_a_second_for_a_locked_file(tmp_path: Path) -> None:
    """A request waits for it, other than what stores the status."""
    file = StatusFile(tmp_path / "traces.status.sqlite3", "site")
    file.add_counts(1, {0: (1, 0)})
    with file._reading() as connection:
        assert connection is not None
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (1000,)
