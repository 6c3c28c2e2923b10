"""`llmrun bench --compare` through the real command, on results and folders of them with planted differences."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RATE, TIME = "decode_tokens_per_second", "tpot_seconds"


@pytest.fixture
def measured(llmrun: Callable[..., Any], real_model: Path) -> dict[str, Any]:
    """A result as the command writes it, of an engine that pretends."""
    done = llmrun(
        *("bench", real_model, "--engine", "fake", "-p", "0", "-n", "4", "-d", "0,16", "-r", "2"),
        *("--no-limits", "--no-cold-start", "--output", "json"),
        env={"LLMRUN_FAKE": json.dumps({"answer": "abc", "token_seconds": 0.001})},
    )
    assert done.code == 0, done.errors
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def planted(document: dict[str, Any], factor: float, *, seed: int, noise: float = 0.01) -> dict[str, Any]:
    """Return the result with other samples: ten repetitions whose rate is `factor` times 100 tokens/s, with noise."""
    draw = random.Random(seed)
    changed = copy.deepcopy(document)
    for row in changed["rows"]:
        rates = [draw.gauss(100 * factor, 100 * factor * noise) for _ in range(10)]
        row["samples"] = {RATE: rates, TIME: [1 / rate for rate in rates]}
        row["warnings"] = []
    return changed


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def compared(llmrun: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def compare(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        files = write(tmp_path / "a.json", first), write(tmp_path / "b.json", second)
        done = llmrun("bench", "--compare", *files, "--output", "json")
        assert done.code == 0, done.errors
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return compare


def test_a_tenth_is_found(measured: dict[str, Any], compared: Callable[..., dict[str, Any]]) -> None:
    found = compared(planted(measured, 1.0, seed=1), planted(measured, 0.9, seed=2))
    assert len(found["comparisons"]) == 4
    for each in found["comparisons"]:
        assert each["real"] is True
        assert each["claim"] == "these runs"
        assert (each["unit"], each["first_runs"], each["second_runs"]) == ("repetition", 1, 1)
        assert each["better"] is False
        assert each["adjusted_p_value"] < 0.001
        assert each["low"] < (0.9 if each["figure"] == RATE else 1 / 0.9) < each["high"]


@pytest.mark.parametrize("noise", [0.01, 0.001], ids=["within the noise", "within what runs differ by anyway"])
def test_a_hundredth_is_not_claimed(
    measured: dict[str, Any], compared: Callable[..., dict[str, Any]], noise: float
) -> None:
    found = compared(planted(measured, 1.0, seed=1, noise=noise), planted(measured, 0.99, seed=2, noise=noise))
    assert [each["real"] for each in found["comparisons"]] == [False] * 4


def test_what_is_found_is_said_in_words(llmrun: Callable[..., Any], measured: dict[str, Any], tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", planted(measured, 1.0, seed=1))
    other = planted(measured, 1.25, seed=2)
    for row in other["rows"]:
        row["threads"], row["tokens_digest"] = 17, "another"
    second = write(tmp_path / "b.json", other)
    text = llmrun("bench", "--compare", first, second).text
    assert "→ 17" in text
    assert text.count("these runs: B was") == 4
    assert "faster" in text
    assert "slower" not in text
    assert "real:" not in text
    assert "the token ids were not the same" in text
    assert "depth 16" in text
    same = llmrun("bench", "--compare", first, first).text
    assert same.count("no difference shown") == 4


def test_one_repetition_says_nothing(measured: dict[str, Any], compared: Callable[..., dict[str, Any]]) -> None:
    first, second = planted(measured, 1.0, seed=1), planted(measured, 0.5, seed=2)
    for row in second["rows"]:
        row["samples"] = {name: values[:1] for name, values in row["samples"].items()}
    found = compared(first, second)
    assert [(each["real"], each["p_value"], each["low"]) for each in found["comparisons"]] == [(False, None, None)] * 4


def test_rows_that_have_no_partner_are_counted(
    measured: dict[str, Any], compared: Callable[..., dict[str, Any]]
) -> None:
    first, second = planted(measured, 1.0, seed=1), planted(measured, 1.0, seed=2)
    del second["rows"][1]
    second["rows"].append(copy.deepcopy(second["rows"][0]) | {"depth": 99})
    found = compared(first, second)
    assert len(found["comparisons"]) == 2
    assert found["unmatched_rows"] == 2


@pytest.fixture
def folders(measured: dict[str, Any], tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Write runs of both sides, made in turns, each with a speed of its own."""

    def write_all(counts: tuple[int, int], factor: float, *, drift: float = 0.03) -> tuple[Path, Path]:
        draw = random.Random(11)
        for side, (count, speed) in enumerate(zip(counts, (1.0, factor), strict=True)):
            (tmp_path / "ab"[side]).mkdir()
            for number in range(count):
                run = planted(measured, speed * draw.gauss(1, drift), seed=100 * side + number)
                run["created"] = f"2026-01-01T12:{2 * number + side:02}:00+00:00"
                write(tmp_path / "ab"[side] / f"{number}.json", run)
        return tmp_path / "a", tmp_path / "b"

    return write_all


def test_folders_of_runs_are_compared_run_by_run(
    llmrun: Callable[..., Any], folders: Callable[..., tuple[Path, Path]]
) -> None:
    before, after = folders((5, 4), 0.8)
    done = llmrun("bench", "--compare", before, after, "--output", "json")
    found = json.loads(done.stdout)
    assert found["first"] == {
        "name": str(before),
        "created": "2026-01-01T12:00:00+00:00",
        "last_created": "2026-01-01T12:08:00+00:00",
        "runs": 5,
    }
    assert found["second"]["runs"] == 4
    assert found["in_turns"] is True
    assert len(found["comparisons"]) == 4
    for each in found["comparisons"]:
        assert (each["unit"], each["first_runs"], each["second_runs"]) == ("run", 5, 4)
        assert (each["real"], each["claim"], each["better"]) == (True, "real", False)
        assert each["low"] < (0.8 if each["figure"] == RATE else 1 / 0.8) < each["high"]
    text = llmrun("bench", "--compare", before, after).text
    assert f"A: {before}, 5 runs, " in text
    assert f"B: {after}, 4 runs, " in text
    assert text.count("real: B is") == 4
    assert text.count("% slower") == 4


def test_what_runs_differ_by_anyway_is_not_claimed(
    llmrun: Callable[..., Any], folders: Callable[..., tuple[Path, Path]]
) -> None:
    before, after = folders((4, 4), 1.0, drift=0.2)
    text = llmrun("bench", "--compare", before, after).text
    assert text.count("no difference shown") == 4
    one = llmrun("bench", "--compare", before / "0.json", after / "1.json").text
    assert "these runs: B was" in one
    assert "measure both 3 times or more, in turns" in one


def test_the_machine_is_measured_before_and_after_and_its_own_change_is_not_claimed(
    llmrun: Callable[..., Any], real_model: Path, tmp_path: Path
) -> None:
    done = llmrun(
        *("bench", real_model, "--engine", "fake", "-p", "0", "-n", "4", "-r", "2", "--no-cold-start"),
        *("--threads", "1", "--output", "json"),
        env={"LLMRUN_FAKE": json.dumps({"answer": "abc", "token_seconds": 0.001})},
    )
    document = json.loads(done.stdout)
    seen = document["limits"][0]["bytes_per_second_seen"]
    assert len(seen) == 2
    assert seen[0] == document["limits"][0]["bytes_per_second_now"]
    first, second = planted(document, 1.0, seed=1), planted(document, 1.25, seed=2)
    for run, speed in ((first, 30e9), (second, 45e9)):
        run["limits"][0]["bytes_per_second_seen"] = [speed, speed]
    text = llmrun("bench", "--compare", write(tmp_path / "1.json", first), write(tmp_path / "2.json", second)).text
    assert text.count("not claimed: the machine itself changed by 50%") == 2
    assert "it read memory 1.50 times as fast in B (1 thread)" in text
    assert "or of 50% that the machine itself changed by" in text


def test_one_result_against_a_folder(llmrun: Callable[..., Any], folders: Callable[..., tuple[Path, Path]]) -> None:
    before, after = folders((8, 1), 0.7)
    text = llmrun("bench", "--compare", before, after / "0.json").text
    assert text.count("real: B is") == 4
    assert "one run alone taken to vary as those of the other side" in text
    turned = llmrun("bench", "--compare", after, before).text
    assert turned.count("% faster") == 4


def test_what_else_is_in_a_folder(llmrun: Callable[..., Any], folders: Callable[..., tuple[Path, Path]]) -> None:
    before, after = folders((3, 3), 1.0)
    write(before / "machine.json", {"version": 1})
    (before / "copy.json").write_bytes((before / "0.json").read_bytes())
    (before / "notes.txt").write_text("not looked at")
    (before / ".hidden.json").write_text("nor this")
    (before / "folder.json").mkdir()
    done = llmrun("bench", "--compare", before, after, "--output", "json")
    assert done.code == 0, done.errors
    found = json.loads(done.stdout)
    assert found["first"]["runs"] == 3
    assert found["cautions"][:2] == [
        "A: what is no result was left out (files: 1)",
        "A: a run that was there twice counts once (copies: 1)",
    ]


def test_types_are_settings_and_the_first_results_had_the_usual_ones(
    measured: dict[str, Any], compared: Callable[..., dict[str, Any]]
) -> None:
    other = planted(measured, 1.0, seed=2)
    for row in other["rows"]:
        row["dtype"] = "float32"
    assert compared(planted(measured, 1.0, seed=1), other)["changed"] == {"dtype": ["auto", "float32"]}
    for row in other["rows"]:
        del row["dtype"], row["quantization"]
    assert compared(planted(measured, 1.0, seed=1), other)["changed"] == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param('{"schema": "llmrun.bench", ', "not JSON", id="cut off"),
        pytest.param('{"schema": "llmrun.bench", "version": 1}', "damaged", id="damaged"),
        pytest.param('{"schema": "llmrun.bench", "version": 2}', "version 2", id="of a later version"),
    ],
)
def test_a_broken_file_in_a_folder_is_refused(
    llmrun: Callable[..., Any], folders: Callable[..., tuple[Path, Path]], content: str, words: str
) -> None:
    before, after = folders((2, 2), 1.0)
    (after / "1.json").write_text(content)
    done = llmrun("bench", "--compare", before, after)
    assert done.code == 4
    assert str(after / "1.json") in done.errors
    assert words in done.errors
    assert done.stdout == b""


def test_a_folder_without_results_is_refused(
    llmrun: Callable[..., Any], folders: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    before, _ = folders((2, 2), 1.0)
    empty, foreign = tmp_path / "empty", tmp_path / "foreign"
    empty.mkdir()
    foreign.mkdir()
    write(foreign / "machine.json", {"version": 1})
    for folder in (empty, foreign):
        done = llmrun("bench", "--compare", before, folder)
        assert done.code == 4
        assert f"there is no result in the folder {folder}" in done.errors
        assert f"llmrun bench MODEL --output json > {folder / '1.json'}" in done.errors


def changed(document: dict[str, Any], **values: Any) -> dict[str, Any]:
    return copy.deepcopy(document) | values


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda good: "not json", "schema", id="a text"),
        pytest.param(lambda good: [good], "schema", id="a list"),
        pytest.param(lambda good: changed(good, schema="other"), "schema", id="of another program"),
        pytest.param(lambda good: changed(good, version=2), "version 2", id="of a later version"),
        pytest.param(lambda good: changed(good, version=True), "version True", id="of no version"),
        pytest.param(lambda good: changed(good["rows"][0], schema="llmrun.bench", version=1), "one row", id="jsonl"),
        pytest.param(lambda good: changed(good, rows=[good["rows"][0] | {"engine": 5}]), "damaged", id="no engine"),
        pytest.param(lambda good: changed(good, rows=None), "damaged", id="no rows"),
        pytest.param(lambda good: changed(good, rows=[{}]), "damaged", id="an empty row"),
        pytest.param(lambda good: changed(good, machine=None), "damaged", id="no machine"),
        pytest.param(lambda good: changed(good, created=5), "damaged", id="no time"),
        pytest.param(lambda good: changed(good, created="noon"), "damaged", id="no time that a clock shows"),
        pytest.param(
            lambda good: changed(good, rows=[good["rows"][0] | {"samples": {RATE: [1.0, -3.0]}}]),
            "-3.0",
            id="a negative rate",
        ),
        pytest.param(
            lambda good: changed(good, rows=[good["rows"][0] | {"samples": {RATE: [float("nan")]}}]), "nan", id="NaN"
        ),
        pytest.param(
            lambda good: changed(good, rows=[good["rows"][0] | {"samples": {RATE: [1e300, 1e-300]}}]),
            "1e+300",
            id="what nothing can be",
        ),
        pytest.param(
            lambda good: changed(good, rows=[good["rows"][0] | {"samples": {RATE: [10**400]}}]),
            "000",
            id="a huge integer",
        ),
        pytest.param(
            lambda good: changed(good, machine={"cpu": {"name": "x", "logical_cores": 1e999}}),
            "damaged",
            id="endless cores",
        ),
        pytest.param(
            lambda good: changed(
                good, limits=[{"threads": 2, "bytes_per_second_now": None, "bytes_per_second_seen": [0]}]
            ),
            "0 is no measured number",
            id="memory that cannot be read",
        ),
        pytest.param(
            lambda good: changed(good, rows=[good["rows"][0] | {"samples": {"speed": [1.0]}}]), "speed", id="no figure"
        ),
        pytest.param(
            lambda good: changed(good, rows=[good["rows"][0] | {"threads": {"a": 1}}]), "setting", id="no setting"
        ),
    ],
)
def test_broken_and_foreign_files_are_refused(
    llmrun: Callable[..., Any],
    measured: dict[str, Any],
    tmp_path: Path,
    spoil: Callable[[dict[str, Any]], Any],
    words: str,
) -> None:
    good = write(tmp_path / "good.json", measured)
    bad = write(tmp_path / "bad.json", spoil(measured))
    for files in ((good, bad), (bad, good)):
        done = llmrun("bench", "--compare", *files)
        assert done.code == 4
        assert words in done.errors
        assert done.stdout == b""


def test_other_files_that_are_none(llmrun: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_bytes(b'{"schema": "llmrun.bench", ')
    (tmp_path / "binary.json").write_bytes(bytes(range(256)))
    (tmp_path / "deep.json").write_bytes(b"[" * 100_000)
    for name in ("cut.json", "binary.json", "deep.json"):
        assert llmrun("bench", "--compare", tmp_path / name, tmp_path / name).code == 4
    assert llmrun("bench", "--compare", tmp_path, tmp_path).code == 4
    assert llmrun("bench", "--compare", tmp_path / "none", tmp_path / "none").code == 3
    assert llmrun("bench", "--compare", tmp_path / "cut.json").code == 2


def test_results_with_nothing_in_common_are_said_to_be(
    llmrun: Callable[..., Any], measured: dict[str, Any], tmp_path: Path
) -> None:
    first = write(tmp_path / "a.json", measured)
    second = write(
        tmp_path / "b.json", changed(measured, rows=[row | {"depth": row["depth"] + 3} for row in measured["rows"]])
    )
    done = llmrun("bench", "--compare", first, second)
    assert done.code == 2
    assert "same settings" in done.errors
