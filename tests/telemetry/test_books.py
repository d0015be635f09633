"""Books: what is counted survives whoever counted it, and others can read it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from innkeeper.telemetry.books import CAPACITY, Book, Shelf
from innkeeper.telemetry.figures import Snapshot
from innkeeper.telemetry.metrics import RUNS, RUNS_ACTIVE, BookMeter
from tests.support.servers import SOURCES

COUNTING = """
import sys
from pathlib import Path
from innkeeper.telemetry.books import Shelf
from innkeeper.telemetry.metrics import BookMeter

meter = BookMeter(Shelf(Path(sys.argv[1]), 2).open(2), {"echo"})
meter.running(3)
for number in range(1000):
    meter.run_ended("echo", "completed", 0.1, None)
print("counted", flush=True)
sys.stdin.read()
"""


def counted(shelf: Shelf, mine: Book) -> tuple[int, int]:
    """The runs that have ended and those under way, on the whole shelf, as place 1 sees it."""
    snapshot = Snapshot(((1, mine), *shelf.others(1)), {})
    return snapshot.total(RUNS), snapshot.total(RUNS_ACTIVE, state="running")


def test_what_a_killed_process_had_counted_stays_and_what_it_had_under_way_goes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 2)
    mine = shelf.open(1)
    command = [sys.executable, "-c", COUNTING, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(SOURCES)}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"counted\n"
        assert counted(shelf, mine) == (1000, 3)
        process.send_signal(signal.SIGKILL)
    shelf.vacate(2)
    assert counted(shelf, mine) == (1000, 0)
    successor = BookMeter(shelf.open(2), {"echo"})
    successor.run_ended("echo", "completed", 0.1, None)
    assert counted(shelf, mine) == (1001, 0)


def test_a_place_that_nobody_has_taken_yet_has_an_empty_book(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 2)
    mine = shelf.open(1)
    assert [(number, book.process, list(book.entries())) for number, book in shelf.others(1)] == [(2, 0, [])]
    shelf.vacate(2)
    assert counted(shelf, mine) == (0, 0)


def test_a_name_that_was_cut_off_while_it_was_written_is_forgotten(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 2)
    BookMeter(shelf.open(1), {"echo"}).run_ended("echo", "completed", None, None)
    (index,) = tmp_path.glob("*.index")
    with index.open("ab") as file:
        file.write(b'["innkeeper_runs_to')
    again = BookMeter(shelf.open(1), {"echo"})
    again.run_ended("echo", "failed", None, None)
    again.run_ended("echo", "completed", None, None)
    for book in (again.book, shelf.others(2)[0][1]):
        assert Snapshot([(1, book)], {}).by(RUNS, "status") == {"completed": 2, "failed": 1}


def test_a_full_book_counts_on_what_it_knows_and_takes_nothing_new() -> None:
    book = Book()
    known = book.place("known", (), 1)
    for number in range(CAPACITY):
        book.cells[book.place("many", (str(number),), 8)] += 1.0
    book.cells[known] += 1.0
    assert len(book.cells) <= CAPACITY
    entries = {(entry.name, entry.labels): entry.cells[0] for entry in book.entries()}
    assert entries["known", ()] == 1.0
    assert set(entries.values()) == {1.0}
    assert book.process == os.getpid()


def test_the_files_of_a_book_are_for_its_user_alone(tmp_path: Path) -> None:
    BookMeter(Shelf(tmp_path, 1).open(1), {"echo"})
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


FILLING = """
import resource, sys
from pathlib import Path
from innkeeper.telemetry.books import Shelf
from innkeeper.telemetry.metrics import BookMeter

meter = BookMeter(Shelf(Path(sys.argv[1]), 2).open(2), {"echo", "other"})
meter.run_ended("echo", "completed", 0.1, None)
size = Path(sys.argv[1], "book-2.index").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, resource.RLIM_INFINITY))
meter.run_ended("other", "completed", 0.1, None)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
meter.run_ended("echo", "failed", 0.1, None)
"""


def test_a_name_of_which_a_full_disk_took_a_part_spoils_no_other(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 2)
    mine = shelf.open(1)
    env = {**os.environ, "PYTHONPATH": str(SOURCES)}
    subprocess.run([sys.executable, "-c", FILLING, str(tmp_path)], env=env, check=True)
    snapshot = Snapshot(((1, mine), *shelf.others(1)), {})
    assert snapshot.by(RUNS, "agent") == {"echo": 2}
