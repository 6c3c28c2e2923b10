"""The file of results: made once, appended to, repaired at its end only, and never anything else than that."""

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.batch.results import KnownResult, ResultFile, encode_result, id_mark
from llmrun.errors import StorageError, UsageError


def record(name: str, *, failed: bool = False, **changes: Any) -> dict[str, Any]:
    error = {"code": "x", "message": "x", "fix": None, "exit_code": 70} if failed else None
    model = {"reference": "m", "sha256": None}
    return {"version": 1, "id": name, "request": f"d-{name}", "text": "t", "model": model, "error": error} | changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def written(path: Path, *names: str) -> bytes:
    data = b"".join(encode_result(record(name)) for name in names)
    path.write_bytes(data)
    return data


def resumed(path: Path) -> ResultFile:
    file = ResultFile.resume(path)
    assert file is not None
    file.close()
    return file


def test_a_new_file_is_readable_as_the_umask_says_and_made_only_once(path: Path) -> None:
    before = os.umask(0o022)
    try:
        file = ResultFile.create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    file.append(record("a"))
    file.append(record("é\n"))
    file.close()
    with pytest.raises(UsageError, match="is there already"):
        ResultFile.create(path)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "é\n"]


def test_a_link_that_leads_nowhere_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is there already"):
        ResultFile.create(path)
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_known_afterwards(path: Path) -> None:
    lines = [record("a"), record("b", failed=True), record("c", failed=True), record("c")]
    path.write_bytes(b"".join(map(encode_result, lines)))
    known = resumed(path).known
    assert known.results == {
        id_mark("a"): KnownResult("d-a", False),
        id_mark("b"): KnownResult("d-b", True),
        id_mark("c"): KnownResult("d-c", False),  # the last line counts
    }
    assert known.models == {("m", None)}
    assert known.cut_bytes == 0
    assert ResultFile.resume(path.with_name("none")) is None


def every_cut() -> Iterator[Any]:
    line = encode_result(record("b"))
    for length in (1, 5, 17, 18, 19, 20, len(line) // 2, len(line) - 2, len(line) - 1):
        yield pytest.param(line[:length], id=f"{length} bytes of it")
    yield pytest.param(b"\0" * 4096, id="only zeros")
    yield pytest.param(line[:30] + b"\0" * 100, id="a beginning and zeros")
    yield pytest.param(line[:30] + b"\n", id="a beginning and the end of a line")


@pytest.mark.parametrize("torn", list(every_cut()))
def test_a_torn_last_line_is_cut_off_and_written_again(path: Path, torn: bytes) -> None:
    whole = written(path, "a")
    path.write_bytes(whole + torn)
    file = ResultFile.resume(path)
    assert file is not None
    assert file.known.cut_bytes == len(torn)
    assert set(file.known.results) == {id_mark("a")}
    assert path.read_bytes() == whole
    file.append(record("b"))
    file.close()
    assert path.read_bytes() == whole + encode_result(record("b"))


@pytest.mark.parametrize(
    ("content", "number"),
    [
        pytest.param(b"my notes, without a newline", 1, id="notes"),
        pytest.param(b"my notes\n", 1, id="a line of notes"),
        pytest.param(b'{"prompt": "x"}\n{"prompt": "y"}\n', 1, id="requests"),
        pytest.param(
            encode_result(record("a")) + b"oops\n" + encode_result(record("b")), 2, id="damaged in the middle"
        ),
        pytest.param(encode_result(record("a", version=2)), 1, id="another version"),
        pytest.param(encode_result(record("a")) + b"[1, 2]", 2, id="something else at the end"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0", 1, id="a picture"),
    ],
)
def test_other_files_are_refused_and_left_as_they_are(path: Path, content: bytes, number: int) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"line {number} of .* is not a result"):
        ResultFile.resume(path)
    assert path.read_bytes() == content


def test_two_processes_cannot_write_at_once(path: Path) -> None:
    file = ResultFile.create(path)
    program = (
        "import sys; from pathlib import Path; from llmrun.engines.batch.results import ResultFile\n"
        "from llmrun.errors import UsageError\n"
        "try: ResultFile.resume(Path(sys.argv[1]))\n"
        "except UsageError as error: print(error.message)"
    )
    command = [sys.executable, "-c", program, str(path)]
    assert "another llmrun is writing to" in subprocess.check_output(command, text=True)
    file.close()
    assert subprocess.check_output(command, text=True) == ""


def test_a_full_disk_leaves_whole_lines(path: Path) -> None:
    file = ResultFile.create(path)
    file.append(record("a"))
    whole = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 50, before[1]))
    try:
        with pytest.raises(StorageError, match="the results before are there"):
            file.append(record("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == whole
    file.append(record("b"))
    file.close()
    assert path.read_bytes() == whole + encode_result(record("b"))


def test_folders_and_pipes_are_no_results(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match="cannot be opened"):
        ResultFile.resume(path)
    pipe = path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="is not a file"):
        ResultFile.resume(pipe)
