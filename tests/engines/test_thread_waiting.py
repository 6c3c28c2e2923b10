"""Reading how long threads have waited, from a folder like /proc/self/task."""

import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrun.engines.threads import waiting as thread_waiting
from llmrun.engines.threads.waiting import ThreadWaiting


def write(folder: Path, name: str, waited_seconds: float, text: str | None = None) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "schedstat").write_text(text or f"123456 {round(waited_seconds * 1e9)} 7\n")


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(thread_waiting, "_TASKS", tmp_path)
    return tmp_path


@pytest.fixture
def waiting(tasks: Path) -> Iterator[ThreadWaiting]:
    reader = ThreadWaiting()
    yield reader
    reader.close()


def test_native_threads_and_the_calling_one_count_and_other_python_threads_do_not(
    tasks: Path, waiting: ThreadWaiting
) -> None:
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        write(tasks, str(threading.get_native_id()), 0.5)
        write(tasks, str(other.native_id), 100)
        write(tasks, "999999991", 0.25)
        waiting.refresh()
        assert waiting() == pytest.approx(0.75)
    finally:
        stop.set()
        other.join()


def test_it_grows_with_the_files_and_keeps_what_ended_threads_waited(tasks: Path, waiting: ThreadWaiting) -> None:
    write(tasks, "999999991", 1)
    write(tasks, "999999992", 2)
    waiting.refresh()
    assert waiting() == pytest.approx(3)
    write(tasks, "999999991", 1.5)
    assert waiting() == pytest.approx(3.5)
    shutil.rmtree(tasks / "999999992")
    write(tasks, "999999993", 0.25)
    waiting.refresh()
    assert waiting() == pytest.approx(3.75)


@pytest.mark.parametrize("text", ["\n", "one two three\n", "12\n"])
def test_a_file_of_another_form_is_left_out(tasks: Path, waiting: ThreadWaiting, text: str) -> None:
    write(tasks, "999999991", 0, text)
    write(tasks, "999999992", 2)
    waiting.refresh()
    assert waiting() == pytest.approx(2)
    assert waiting() == pytest.approx(2)


def test_where_the_system_keeps_no_count_it_says_so(tasks: Path) -> None:
    assert not ThreadWaiting.available()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux keeps count")
def test_the_real_files_are_read() -> None:
    if not ThreadWaiting.available():
        pytest.skip("this kernel was built without the count")
    reader = ThreadWaiting()
    reader.refresh()
    first = reader()
    assert 0 <= first <= reader()
    reader.close()
