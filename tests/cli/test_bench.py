"""`llmrun bench` through the real command: on the fake engine for what can go wrong, on the real ones for figures."""

import csv
import io
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmrun.cli.bench.formats import name, short_names
from llmrun.cli.bench.table import table_text
from llmrun.engines.measure.cold_start import cold_start_command, measure_cold_start
from llmrun.engines.measure.points import Setup
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.types import EngineName

QUICK = ("--no-limits", "--no-cold-start")
FAKE = ("--engine", "fake", "-p", "16", "-n", "8", "-r", "3", *QUICK)


def script(**values: Any) -> dict[str, str]:
    return {"LLMRUN_FAKE": json.dumps({"answer": "abcdef", "token_seconds": 0.002} | values)}


def result(llmrun: Callable[..., Any], *arguments: str | Path, code: int = 0, **keywords: Any) -> dict[str, Any]:
    done = llmrun("bench", *arguments, "--output", "json", **keywords)
    assert done.code == code, done.errors
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_a_document_says_all_that_a_figure_depends_on(llmrun: Callable[..., Any], real_model: Path) -> None:
    document = result(llmrun, real_model, *FAKE, env=script(prefill_seconds=0.01))
    assert (document["schema"], document["version"], document["interrupted"]) == ("llmrun.bench", 1, False)
    assert document["machine"]["cpu"]["logical_cores"] == os.cpu_count()
    assert document["models"][0]["path"] == str(real_model)
    assert set(document["definitions"]) >= set(document["rows"][0]["statistics"])
    (row,) = document["rows"]
    assert (row["engine"], row["prompt_tokens"], row["answer_tokens"], row["error"]) == ("fake", 16, 8, None)
    for figure in ("prefill_tokens_per_second", "decode_tokens_per_second", "ttft_seconds", "tpot_seconds"):
        assert len(row["samples"][figure]) == 3
        found = row["statistics"][figure]
        assert found["low"] <= found["mean"] <= found["high"]
        assert found["count"] == 3
    # 7 intervals of at least 2 ms
    assert row["statistics"]["tpot_seconds"]["median"] >= 0.002
    assert 0 < row["statistics"]["decode_tokens_per_second"]["mean"] <= 500
    assert row["statistics"]["ttft_seconds"]["median"] >= 0.01
    assert row["peak_memory_bytes"] > 5 << 20
    assert row["contention"]["seconds"] > 0


def test_every_value_of_every_list_is_measured(llmrun: Callable[..., Any], real_model: Path) -> None:
    sizes = ("-p", "8,16", "-n", "4", "-d", "0,32", "--threads", "1,2", "-b", "1,2", "-r", "1")
    document = result(llmrun, real_model, "--engine", "fake", *sizes, *QUICK, env=script())
    rows = document["rows"]
    found = {(row["prompt_tokens"], row["depth"], row["threads"], row["parallel"]) for row in rows}
    assert len(found) == len(rows) == 16
    assert len({row["tokens_digest"] for row in rows}) == 1
    assert all(row["statistics"]["decode_tokens_per_second"]["sd"] is None for row in rows)


def test_prompts_and_answers_can_be_measured_apart(llmrun: Callable[..., Any], real_model: Path) -> None:
    sizes = ("-p", "0,8", "-n", "0,4", "-r", "1")
    document = result(llmrun, real_model, "--engine", "fake", *sizes, *QUICK, env=script())
    assert [(row["prompt_tokens"], row["answer_tokens"]) for row in document["rows"]] == [(0, 4), (8, 0), (8, 4)]


def test_types_that_were_asked_for_are_settings(llmrun: Callable[..., Any], real_model: Path) -> None:
    arguments = (*FAKE, "-r", "1", "--dtype", "float32")
    (row,) = result(llmrun, real_model, *arguments, env=script())["rows"]
    assert (row["dtype"], row["quantization"]) == ("float32", None)
    assert "float32" in llmrun("bench", real_model, *arguments, env=script()).text
    (usual,) = result(llmrun, real_model, *FAKE, "-r", "1", env=script())["rows"]
    assert usual["dtype"] == "auto"


def test_the_other_forms(llmrun: Callable[..., Any], real_model: Path) -> None:
    lines = llmrun("bench", real_model, *FAKE, "-d", "0,8", "--output", "jsonl", env=script()).text.splitlines()
    assert [json.loads(line)["depth"] for line in lines] == [0, 8]
    assert {json.loads(line)["schema"] for line in lines} == {"llmrun.bench"}
    (row,) = csv.DictReader(io.StringIO(llmrun("bench", real_model, *FAKE, "--output", "csv", env=script()).text))
    assert row["engine"] == "fake"
    assert float(row["decode_tokens_per_second_mean"]) > 0
    assert row["cold_start_seconds_mean"] == ""
    table = llmrun("bench", real_model, *FAKE, "--output", "md", env=script()).text
    assert "| tg8 |" in table
    assert "| pp16 |" in table


def test_the_table_has_bars_and_says_what_it_shows(llmrun: Callable[..., Any], real_model: Path) -> None:
    done = llmrun("bench", real_model, *FAKE, env=script())
    assert done.code == 0
    for words in ("prefill 16", "decode 8", "█", "TTFT", "TPOT (p95)", "peak memory", "3 repetitions after a warm-up"):
        assert words in done.text
    assert "measuring" in done.errors


def test_on_a_terminal_nothing_is_wider_than_it(in_terminal: Callable[..., tuple[str, int]], real_model: Path) -> None:
    text, code = in_terminal("bench", str(real_model), *FAKE, "--quiet", env=script())
    assert code == 0
    assert "prefill 16" in text
    assert all(len(line.rstrip()) <= 80 for line in text.split("\r\n") if "─" in line)


def test_a_table_of_several_sizes_says_which_is_which(llmrun: Callable[..., Any], real_model: Path) -> None:
    one = llmrun("bench", real_model, *FAKE, env=script()).text
    several = llmrun("bench", real_model, *FAKE, "-p", "16,32", "-r", "1", env=script()).text
    times = [part for text in (one, several) for part in text.split("\n\n") if "TTFT" in part]
    assert [[size in part for size in ("16 + 8", "32 + 8")] for part in times] == [[False, False], [True, True]]
    assert "1 repetition after a warm-up" in several


def test_one_model_by_two_names_is_measured_once(llmrun: Callable[..., Any], real_model: Path, tmp_path: Path) -> None:
    (tmp_path / "link.gguf").symlink_to(real_model)
    done = llmrun("bench", real_model, real_model, tmp_path / "link.gguf", *FAKE, "--output", "csv", env=script())
    assert len(done.text.splitlines()) == 2
    assert f"link.gguf is measured once: it is the same as {real_model}" in done.errors


@pytest.mark.parametrize(("layers", "words"), [(-1, "all GPU layers"), (0, "no GPU layers"), (5, "5 GPU layers")])
def test_layers_are_said_in_words(layers: int, words: str) -> None:
    row = {"engine": "fake", "threads": 1, "depth": 0, "parallel": 1, "kv_type": "f16", "gpu_layers": layers}
    assert name(row) == f"fake, 1 thread, {words}"


def test_models_with_one_name_are_told_apart() -> None:
    assert short_names(["a/m.gguf", "b/m.gguf", "b/n.gguf", "folder/"]) == {
        "a/m.gguf": "a/m.gguf",
        "b/m.gguf": "b/m.gguf",
        "b/n.gguf": "n.gguf",
        "folder/": "folder",
    }


def test_nothing_breaks_the_rows_of_a_markdown_table(llmrun: Callable[..., Any], real_model: Path) -> None:
    env = script(load_error="a | b\nc \\")
    done = llmrun("bench", real_model, *FAKE, "--output", "md", env=env)
    assert done.text.splitlines()[2].split(" | ")[3:5] == ["failed", "a \\| b c \\\\"]
    assert len(done.text.splitlines()) == 3


def test_definitions_are_printed_without_a_model(llmrun: Callable[..., Any]) -> None:
    done = llmrun("bench", "--explain")
    assert done.code == 0
    assert "(n - 1) / (t_last - t_first)" in done.text


def test_an_engine_that_dies_ends_its_row_and_not_the_sweep(llmrun: Callable[..., Any], real_model: Path) -> None:
    arguments = ("--engine", "fake", "-p", "8", "-n", "4,32,6", "-r", "2", *QUICK)
    env = script(crash_signal=int(signal.SIGSEGV), crash_at=20)
    document = result(llmrun, real_model, *arguments, env=env)
    first, second, third = document["rows"]
    assert (first["error"], third["error"]) == (None, None)
    assert second["error"]["exit_code"] == 70
    assert "SIGSEGV" in second["error"]["message"]
    table = llmrun("bench", real_model, *arguments, env=env).text
    assert "✗ fake, 2 threads, 8 + 32" in table or "✗ fake, 1 thread, 8 + 32" in table


def test_when_every_engine_fails_so_does_the_command(llmrun: Callable[..., Any], real_model: Path) -> None:
    done = llmrun("bench", real_model, *FAKE, env=script(load_error="not today"))
    assert done.code == 6
    assert "not today" in done.errors
    assert "not today" in done.text


def test_what_mends_a_failure_is_an_option_of_bench(llmrun: Callable[..., Any], real_model: Path) -> None:
    done = llmrun("bench", real_model, *FAKE, env=script(crash_signal=int(signal.SIGKILL), crash_at=2))
    assert done.code == 6
    assert "nothing could be measured: fake was killed by the system" in done.errors
    assert "  fix: a smaller -p, -n, -d or -b, or" in done.errors


def test_noise_is_called_noise(llmrun: Callable[..., Any], real_model: Path) -> None:
    sizes = ("-p", "0", "-n", "8", "-r", "4", "--engine", "fake", *QUICK)
    document = result(llmrun, real_model, *sizes, env=script(token_seconds=0.01, wobble=2.0))
    assert any(warning.startswith("too noisy to mean anything: decode") for warning in document["rows"][0]["warnings"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(("-p", "9000"), 5, "8,192", id="longer than the context"),
        pytest.param(("-d", "8000"), 5, "-d 7679 fits", id="too deep for the context"),
        pytest.param(("-b", "1024", "-p", "8000", "--engine", "llama-cpp"), 5, "KV cache", id="more than memory"),
        pytest.param(("-b", "1024", "-p", "8000", "--engine", "llama-cpp"), 5, "  fix: -b ", id="what fits in memory"),
        pytest.param(("-n", "1"), 2, "-n 1", id="one token has no rate"),
        pytest.param(("-p", "0", "-n", "0"), 2, "nothing", id="nothing to measure"),
        pytest.param(("-p", "128,x"), 2, "'x'", id="no number"),
        pytest.param(("-p", ""), 2, "-p wants", id="an empty list"),
        pytest.param(("-b", "0"), 2, "from 1", id="nobody at once"),
        pytest.param(("--kv-type", "f16,q5"), 2, "q5", id="no such type"),
        pytest.param(("--engine", "llama"), 2, "llama-cpp", id="no such engine"),
        pytest.param(("--output", "xml"), 2, "jsonl", id="no such format"),
        pytest.param(("-r", "0"), 2, "1<=x<=1000", id="no repetitions"),
    ],
)
def test_bad_input(
    llmrun: Callable[..., Any], real_model: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = llmrun("bench", real_model, *QUICK, *arguments, env={"LLMRUN_ENGINE": "fake"})
    assert done.code == code
    assert words in done.errors


def test_without_a_model_there_is_nothing_to_do(llmrun: Callable[..., Any]) -> None:
    assert llmrun("bench").code == 2
    assert llmrun("bench", "no-such-model").code == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_after_an_interruption_what_is_done_is_written(
    start_llmrun: Callable[..., "subprocess.Popen[bytes]"], real_model: Path, number: signal.Signals, code: int
) -> None:
    arguments = ("--engine", "fake", "-p", "8", "-n", "4,2000", "-r", "2", *QUICK, "--output", "json")
    process = start_llmrun("bench", real_model, *arguments, env=script(token_seconds=0.005))
    assert process.stderr is not None
    seen = b""
    deadline = time.monotonic() + 20
    while b"8 + 2000" not in seen and time.monotonic() < deadline:
        seen += os.read(process.stderr.fileno(), 4096)
    time.sleep(0.3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == code
    document = json.loads(output)
    assert document["interrupted"] is True
    assert [row["answer_tokens"] for row in document["rows"]] == [4]


def test_bars_take_what_room_there_is(llmrun: Callable[..., Any], real_model: Path) -> None:
    document = result(llmrun, real_model, *FAKE, "-d", "0,512", env=script(prefill_seconds=0.01))
    for row in document["rows"]:
        row["warnings"] = []  # on a busy machine they take room too
    for width, most in ((80, 15), (120, 16)):
        lines = table_text(document, width=width).splitlines()
        rows = [line for line in lines if "depth 512  prefill 16" in line]  # the name is not broken
        assert len(rows) == 1
        assert all(len(line) <= width for line in lines)
        assert 4 <= max(line.count("█") for line in lines) <= most


def test_a_narrow_terminal_shows_every_figure(llmrun: Callable[..., Any], real_model: Path) -> None:
    document = result(llmrun, real_model, *FAKE, "-b", "1,2", env=script())
    narrow = table_text(document, width=40).splitlines()
    assert all(len(line) <= 40 for line in narrow)
    for row in document["rows"]:
        for metric in ("prefill_tokens_per_second", "decode_tokens_per_second"):
            mean = row["statistics"][metric]["mean"]
            assert any((f"{mean:,.1f}" if mean < 1000 else f"{mean:,.0f}") in line for line in narrow)
    assert {"  TTFT", "  TPOT", "  load", "  peak"} <= {line[:6] for line in narrow}


def test_bars_are_comparable_between_models(llmrun: Callable[..., Any], real_model: Path) -> None:
    document = result(llmrun, real_model, *FAKE, env=script())
    (model,), (row,) = document["models"], document["rows"]
    document["models"].append(model | {"digest": "another", "path": "another.gguf"})
    document["rows"].append(json.loads(json.dumps(row)) | {"model_digest": "another"})
    for each, mean in zip(document["rows"], (400.0, 100.0), strict=True):
        each["statistics"]["decode_tokens_per_second"]["mean"] = mean
    bars = [line.count("█") for line in table_text(document, width=120).splitlines() if " decode 8 " in line]
    assert bars[0] == 4 * bars[1] > 0


def test_what_stops_every_row_of_an_engine_is_said_once(llmrun: Callable[..., Any], real_model: Path) -> None:
    document = result(llmrun, real_model, *FAKE, "-b", "1,2", "--engine", "fake,vllm", env=script())
    assert [row["error"] is None for row in document["rows"]] == [True, True, False, False]
    assert [line for line in table_text(document).splitlines() if "does not read gguf" in line] == [
        f"✗ vllm: {document['rows'][2]['error']['message']}"
    ]


@pytest.mark.engine
def test_the_cold_start_of_small_sizes(llmrun: Callable[..., Any], real_model: Path, tmp_path: Path) -> None:
    sizes = ("-p", "8", "-n", "4", "-r", "1", "--no-limits")
    model = tmp_path / os.fsdecode(b"no text \xff.gguf")
    model.symlink_to(real_model)
    document = result(llmrun, model, "--engine", "llama-cpp", *sizes, timeout=120)
    assert document["rows"][0]["statistics"]["cold_start_seconds"]["count"] == 1


def test_why_there_is_no_cold_start(real_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    setup = Setup(engine=EngineName.LLAMA_CPP, threads=1)
    assert "No space left" in (measure_cold_start(str(real_model), setup, 1, 64, PlanRequest()).problem or "")


def test_the_cold_start_is_of_the_model_as_it_is_measured() -> None:
    setup = Setup(engine=EngineName.PYTORCH, threads=1)
    assert "--dtype" not in cold_start_command("model", setup, 64, PlanRequest())
    request = PlanRequest(dtype="float32", quantization="8-bit", model_type="llama", pickle=True, remote_code=True)
    command = cold_start_command("model", setup, 64, request)
    options = ["--dtype", "float32", "--quantization", "8-bit", "--model-type", "llama", "--allow-pickle"]
    at = command.index("--dtype")
    assert command[at : at + len(options) + 1] == [*options, "--trust-remote-code"]


def test_after_an_interruption_repetitions_that_are_done_are_a_row(
    start_llmrun: Callable[..., "subprocess.Popen[bytes]"], real_model: Path
) -> None:
    arguments = ("--engine", "fake", "-p", "8", "-n", "4", "-b", "1,2", "-r", "1000", *QUICK, "--output", "json")
    process = start_llmrun("bench", real_model, *arguments, env=script(token_seconds=0.02))
    assert process.stderr is not None
    while b"8 + 4" not in os.read(process.stderr.fileno(), 4096):  # said once a second has gone by
        pass
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 130
    (row,) = json.loads(output)["rows"]
    count = row["statistics"]["decode_tokens_per_second"]["count"]
    assert {each["count"] for name, each in row["statistics"].items() if name != "load_seconds"} == {count}
    assert 1 <= count < 1000
    assert any(warning.startswith(f"interrupted after {count} repetition") for warning in row["warnings"])


@pytest.mark.engine
def test_llama_cpp_for_real(llmrun: Callable[..., Any], real_model: Path) -> None:
    sizes = ("-p", "64", "-n", "16", "-d", "0,64", "-r", "2")
    document = result(llmrun, real_model, "--engine", "llama-cpp", *sizes, timeout=180)
    shallow, deep = document["rows"]
    assert (shallow["cached_tokens"], deep["cached_tokens"]) == (0, 64)
    for row in (shallow, deep):
        assert row["error"] is None
        assert row["peak_memory_bytes"] > 90 << 20  # the weights alone
        assert row["memory_bandwidth_share"] > 0
        assert row["matrix_product_share"] > 0
        started = row["statistics"]["cold_start_seconds"]["median"]
        assert started > row["statistics"]["load_seconds"]["median"] > 0
        # the first text comes after the prompt was processed
        assert (
            row["statistics"]["ttft_seconds"]["median"]
            > 0.5 * 64 / row["statistics"]["prefill_tokens_per_second"]["mean"]
        )
    assert document["engines"][0]["version"]
    (limits,) = document["limits"]
    assert limits["operations_source"]


@pytest.mark.engine
def test_several_at_once_are_faster_together(llmrun: Callable[..., Any], real_model: Path) -> None:
    document = result(llmrun, real_model, "-p", "32", "-n", "24", "-b", "1,4", "-r", "2", *QUICK, timeout=180)
    one, four = document["rows"]
    assert (one["parallel"], four["parallel"]) == (1, 4)
    assert len(four["samples"]["ttft_seconds"]) == 2
    assert four["error"] is None
    assert "throughput_tokens_per_second" not in one["samples"]
    throughput, decode = (four["samples"][f"{name}_tokens_per_second"] for name in ("throughput", "decode"))
    assert len(throughput) == 2
    assert max(throughput) < max(decode)  # the prompts take time, too


@pytest.mark.engine
@pytest.mark.pytorch
def test_the_same_ids_go_to_every_engine(
    llmrun: Callable[..., Any], real_model: Path, twin: Path, tmp_path: Path
) -> None:
    arguments = ("-p", "16", "-n", "4", "-r", "1", *QUICK)
    (tmp_path / "temporary").mkdir()
    env = {"TMPDIR": str(tmp_path / "temporary")}
    document = result(llmrun, real_model, twin, "--engine", "llama-cpp,pytorch", *arguments, env=env, timeout=240)
    assert not list((tmp_path / "temporary").glob("llmrun-*"))  # engines are killed, and leave nothing all the same
    rows = {(row["model"], row["engine"]): row for row in document["rows"]}
    assert rows[str(twin), "llama-cpp"]["error"]["exit_code"] == 6
    measured = [row for row in document["rows"] if row["error"] is None]
    assert {row["engine"] for row in measured} == {"llama-cpp", "pytorch"}
    assert len({row["tokens_digest"] for row in measured}) == 1
    assert {len(row["samples"]["decode_tokens_per_second"]) for row in measured} == {1}


@pytest.mark.vllm
def test_vllm_for_real(llmrun: Callable[..., Any], twin: Path) -> None:
    arguments = ("--engine", "vllm", "-p", "32", "-n", "8", "-b", "1,2", "-r", "1", *QUICK)
    document = result(llmrun, twin, *arguments, timeout=400)
    assert [row["error"] for row in document["rows"]] == [None, None]
    assert all(row["statistics"]["decode_tokens_per_second"]["mean"] > 0 for row in document["rows"])
