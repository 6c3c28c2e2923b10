"""Lines of a batch: what is taken, and what is refused with its line and its field."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.batch.reading import BatchFile
from llmrun.engines.batch.request import BatchDefaults, BatchItem, parse_item
from llmrun.engines.batch.results import Known, KnownResult, id_mark
from llmrun.engines.types import SamplingOptions
from llmrun.errors import UsageError
from llmrun.progress import SILENT

SAMPLING = SamplingOptions(
    temperature=0.7, top_p=0.95, top_k=40, min_p=0.05, repeat_penalty=1.0, max_tokens=100, seed=1, stop=("END",)
)
DEFAULTS = BatchDefaults(sampling=SAMPLING)


def item(values: Any, line: int = 1, **defaults: Any) -> BatchItem:
    return parse_item(json.dumps(values).encode(), line, BatchDefaults(**{"sampling": SAMPLING} | defaults))


def refusal(data: bytes | str | dict[str, Any], **defaults: Any) -> str:
    if isinstance(data, dict):
        data = json.dumps(data)
    encoded = data if isinstance(data, bytes) else data.encode()
    with pytest.raises(UsageError) as caught:
        parse_item(encoded, 7, BatchDefaults(**{"sampling": SAMPLING} | defaults))
    assert caught.value.message.startswith("line 7")
    return caught.value.message.removeprefix("line 7").lstrip(": ")


def test_every_option_may_be_overridden() -> None:
    values = {
        "temperature": 0, "top_p": 0.5, "top_k": 0, "min_p": 1, "repeat_penalty": 1.1, "max_tokens": None, "seed": 5,
        "stop": "x", "logprobs": 0, "json_schema": {"type": "object"}, "grammar": 'root ::= "a"',
    }  # fmt: skip
    made = item({"prompt": "hi"} | values).sampling
    expected = {**values, "stop": ("x",), "json_schema": '{"type": "object"}'}
    assert {name: getattr(made, name) for name in values} == expected
    assert made.repeatable
    assert isinstance(made.temperature, float)
    assert item({"prompt": "hi", "stop": []}).sampling.stop == ()
    assert item({"prompt": "hi"}).sampling.stop == ("END",)


def test_seeds() -> None:
    drawn = {item({"prompt": "hi"}).sampling.seed for _ in range(20)}
    assert len(drawn) == 20
    assert item({"prompt": "hi"}, seed_is_given=True).sampling.seed == 1
    assert item({"prompt": "hi", "seed": None}, seed_is_given=True).sampling.seed == 1
    assert not item({"prompt": "hi"}).sampling.repeatable
    assert item({"prompt": "hi"}, seed_is_given=True).sampling.repeatable


def test_ids() -> None:
    assert item({"prompt": "hi"}, line=12).id == "12"
    assert item({"id": "é", "prompt": "hi"}).id == "é"
    assert item({"id": 7, "prompt": "hi"}).id == "7"


def test_system_messages() -> None:
    def roles(values: dict[str, Any], **defaults: Any) -> list[tuple[str, str]]:
        return [(message.role, message.content) for message in item(values, **defaults).messages]

    own = {"messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "hi"}]}
    assert roles({"prompt": "hi"}, system="all") == [("system", "all"), ("user", "hi")]
    assert roles({"prompt": "hi", "system": "one"}, system="all") == [("system", "one"), ("user", "hi")]
    assert roles({"prompt": "hi", "system": ""}, system="all") == [("user", "hi")]
    assert roles(own, system="all") == [("system", "own"), ("user", "hi")]
    assert roles({"prompt": "hi"}, system="all", raw=True) == [("user", "hi")]


def test_the_digest_changes_with_what_was_asked_for() -> None:
    base = item({"prompt": "hi"}).digest
    assert base == item({"id": "other", "prompt": "hi"}, line=9).digest
    assert base == item({"messages": [{"role": "user", "content": "hi"}]}).digest
    others = [
        item({"prompt": "ho"}),
        item({"prompt": "hi", "temperature": 0}),
        item({"prompt": "hi", "seed": 1}),
        item({"prompt": "hi", "stop": ["x"]}),
        item({"prompt": "hi", "json_schema": True}),
        item({"prompt": "hi"}, system="x"),
        item({"prompt": "hi"}, raw=True),
        item({"prompt": "hi"}, overflow="drop-oldest"),
        item({"prompt": "hi"}, seed_is_given=True, sampling=SAMPLING),
    ]
    digests = [other.digest for other in others]
    assert base not in digests
    assert len(set(digests)) == len(digests) - 1  # the same seed, from the line and from the option


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"prompt": 5}, "prompt wants a text, found 5", id="prompt no text"),
        pytest.param({"prompt": "  "}, "prompt is empty", id="blank prompt"),
        pytest.param({}, "prompt and messages: a request has one of them, this has none", id="nothing"),
        pytest.param({"prompt": "a", "messages": []}, "prompt and messages: a request has one of them", id="both"),
        pytest.param({"prompt": "a", "max_token": 5}, "max_token is no field", id="unknown field"),
        pytest.param({"prompt": "a", "engine": "vllm"}, "engine is no field", id="an option of the command"),
        pytest.param({"prompt": "a", "temperature": "0"}, 'temperature wants a number, found "0"', id="text"),
        pytest.param({"prompt": "a", "temperature": True}, "temperature wants a number, found true", id="bool"),
        pytest.param({"prompt": "a", "temperature": None}, "temperature wants a number, found null", id="null"),
        pytest.param({"prompt": "a", "temperature": -1}, "temperature wants 0 or more, found -1", id="negative"),
        pytest.param({"prompt": "a", "temperature": 10**400}, "temperature wants", id="too large for a float"),
        pytest.param({"prompt": "a", "top_p": 1.5}, "top_p wants 0 to 1, found 1.5", id="top_p"),
        pytest.param({"prompt": "a", "repeat_penalty": 0}, "repeat_penalty wants more than 0", id="penalty"),
        pytest.param({"prompt": "a", "max_tokens": 0}, "max_tokens wants 1 to", id="max_tokens 0"),
        pytest.param({"prompt": "a", "max_tokens": 5.0}, "max_tokens wants a whole number, found 5.0", id="float"),
        pytest.param({"prompt": "a", "seed": 2**32 - 1}, "seed wants 0 to", id="seed"),
        pytest.param({"prompt": "a", "stop": [""]}, "stop has an empty text", id="empty stop"),
        pytest.param({"prompt": "a", "stop": {"a": 1}}, "stop wants a text or a list", id="stop no list"),
        pytest.param({"prompt": "a", "logprobs": 101}, "logprobs wants 0 to 100", id="logprobs"),
        pytest.param({"prompt": "a", "json_schema": "{"}, "json_schema is not JSON", id="schema no JSON"),
        pytest.param({"prompt": "a", "json_schema": [1]}, "json_schema wants a JSON schema", id="schema a list"),
        pytest.param({"prompt": "a", "id": ""}, "id wants 1 to 1,024 characters", id="empty id"),
        pytest.param({"prompt": "a", "id": "x" * 1025}, "id wants 1 to 1,024 characters, found 1,025", id="long id"),
        pytest.param({"prompt": "a", "id": True}, "id wants a text, found true", id="id a bool"),
        pytest.param({"prompt": "a\ud800"}, "prompt has half a character ('\\ud800') at 1", id="half a character"),
        pytest.param({"prompt": "a", "system": 1}, "system wants a text", id="system"),
        pytest.param({"messages": "hi"}, "messages wants a list", id="messages no list"),
        pytest.param({"messages": []}, "messages have nothing of a user", id="no messages"),
        pytest.param({"messages": [{"role": "user"}]}, "messages[0] wants an object with role and content", id="half"),
        pytest.param(
            {"messages": [{"role": "tool", "content": "x"}]}, 'messages[0].role wants one of system', id="34 role"
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content wants a text",
            id="content in parts",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
            "messages[1].role is system, which only the first",
            id="late system",
        ),
        pytest.param(
            {"system": "x", "messages": [{"role": "system", "content": "y"}, {"role": "user", "content": "a"}]},
            "system is there twice",
            id="system twice",
        ),
    ],
)  # fmt: skip
def test_refusals(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"{", "is not JSON", id="half an object"),
        pytest.param(b'"hi"', "a request is a JSON object", id="a text"),
        pytest.param(b'{"prompt": "caf\xe9"}', "byte 15 is not UTF-8", id="36 Latin-1"),
        pytest.param(b'{"prompt": "a", "temperature": NaN}', "NaN is not a number", id="34 NaN"),
        pytest.param(b'{"prompt": "a", "temperature": 1e999}', "temperature wants", id="34 infinite"),
        pytest.param(b"[" * 100_000, "is not JSON", id="nested too deeply"),
        pytest.param(b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}", "is not JSON", id="5,000 digits"),
    ],
)
def test_lines_that_are_no_requests(data: bytes, message: str) -> None:
    assert message in refusal(data)


def test_messages_need_a_template() -> None:
    assert "--raw" in refusal({"messages": [{"role": "user", "content": "a"}]}, raw=True)


def census(path: Path, known: Known | None = None, **options: Any) -> tuple[int, int, int]:
    with BatchFile(str(path)) as batch:
        found = batch.check(DEFAULTS, known or Known(), SILENT, **options)
    return found.total, found.to_do, found.failed


def lines(path: Path, *requests: Any) -> Path:
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


def test_the_file_is_read_twice_and_empty_lines_keep_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "one"}\r\n\n  \n{"prompt": "four"}')  # with a BOM, without a last newline
    with BatchFile(str(path)) as batch:
        found = batch.check(DEFAULTS, Known(), SILENT)
        assert [each.id for each in batch.items(DEFAULTS, found)] == ["1", "4"]


def test_duplicate_ids_are_refused_with_both_lines(tmp_path: Path) -> None:
    path = lines(tmp_path / "batch.jsonl", {"id": "a", "prompt": "x"}, {"prompt": "y"}, {"id": "a", "prompt": "z"})
    with pytest.raises(UsageError, match=r"line 3: the id 'a' is that of line 1 already"):
        census(path)
    path = lines(tmp_path / "batch.jsonl", {"id": 2, "prompt": "x"}, {"prompt": "y"})
    with pytest.raises(UsageError, match=r"line 2: the id '2' is that of line 1 already"):
        census(path)


def test_what_an_earlier_run_has_done(tmp_path: Path) -> None:
    path = lines(tmp_path / "batch.jsonl", *({"id": name, "prompt": name} for name in "abc"))

    def known(*failed: str, change: str = "") -> Known:
        results = {
            id_mark(name): KnownResult(item({"prompt": name + (change if name == "a" else "")}).digest, name in failed)
            for name in "ab"
        }
        return Known(results=results | {id_mark("gone"): KnownResult("x", False)})

    assert census(path, known()) == (3, 1, 0)
    assert census(path, known("b")) == (3, 1, 1)
    assert census(path, known("b"), retry_errors=True) == (3, 2, 0)
    with pytest.raises(UsageError, match="line 1: the request with the id 'a' is not the one that was answered"):
        census(path, known(change="!"))
    assert census(path, known("a", change="!"), retry_errors=True) == (3, 2, 0)


def test_a_file_that_changes_meanwhile_ends_the_batch(tmp_path: Path) -> None:
    path = lines(tmp_path / "batch.jsonl", *({"prompt": str(number)} for number in range(5000)))
    with BatchFile(str(path)) as batch:
        items = batch.items(DEFAULTS, batch.check(DEFAULTS, Known(), SILENT))
        next(items)
        with path.open("a") as file:
            file.write("\n")
        with pytest.raises(UsageError, match="was changed while it was being answered"):
            list(items)


def test_a_line_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(UsageError, match="line 1 is longer than the 64 MiB"):
        census(path)
