"""The prefix cache with the real library: the same answers as without it, sooner; bad files are ignored."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_gguf import Shape, _vocabulary, write_random_gguf

from llmrun.engines.client import WorkerClient
from llmrun.engines.llama_cpp.prefix import resume_point
from llmrun.engines.prefix_cache.file import read_head, write_entry
from llmrun.engines.types import (
    Delta,
    Done,
    EngineName,
    LoadPlan,
    Notice,
    SamplingOptions,
    Segment,
    Stats,
)

KEY_AT = 24  # in an entry's header
SMALL = Shape(layers=2, width=128, heads=2, kv_heads=1, feed_forward=256, vocabulary=1024, context_length=4096)
LAYERS, WIDTH, STATE, CONVOLUTION, RANK, VOCABULARY = 2, 64, 8, 4, 4, 1024  # of the recurrent model
WORDS = ["the", "river", "stone", "seven", "red", "light", "house", "walks", "under", "old", "small", "idea"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return Path(write_random_gguf(tmp_path / "tiny.gguf", SMALL))


@pytest.fixture
def windowed(tmp_path: Path) -> Path:
    return Path(
        write_random_gguf(tmp_path / "windowed.gguf", replace(SMALL, architecture="gemma3", layers=6, window=128))
    )


@pytest.fixture
def recurrent(tmp_path: Path) -> Path:
    return write_mamba(tmp_path / "mamba.gguf")


class Answer:
    """What one run of a fresh worker said."""

    def __init__(self, text: str, stats: Stats, notices: list[str]) -> None:
        self.text = text
        self.stats = stats
        self.notices = notices


Ask = Callable[..., Answer]


@pytest.fixture
def ask(folder: Path) -> Iterator[Ask]:
    """Answer prompts in one worker after another, or in the worker that is given."""
    clients = []

    def run(
        model: Path, *prompts: str, cached: bool = True, kv: str = "f16", length: int = 2048, most: int = 12
    ) -> Answer:
        client = WorkerClient(EngineName.LLAMA_CPP)
        clients.append(client)
        client.load(
            LoadPlan(
                engine=EngineName.LLAMA_CPP,
                model_path=str(model),
                context_length=length,
                threads=2,
                kv_type=kv,
                cache_folder=str(folder) if cached else None,
            )
        )
        answer = [generate(client, prompt, most) for prompt in prompts][-1]
        client.close()
        return answer

    yield run
    for client in clients:
        client.close()


def generate(client: WorkerClient, prompt: str, most: int) -> Answer:
    options = SamplingOptions(
        temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=most, seed=0, repeatable=True
    )
    events: list[Any] = list(client.generate([Segment(text=prompt, special=False)], options))
    assert isinstance(events[-1], Done)
    text = "".join(event.text for event in events if isinstance(event, Delta))
    return Answer(text, events[-1].stats, [event.text for event in events if isinstance(event, Notice)])


def words(seed: int, count: int) -> str:
    chance = random.Random(seed)
    return " ".join(chance.choices(WORDS, k=count))


@pytest.mark.parametrize(
    ("covered", "length", "batch", "expected"),
    [
        pytest.param(0, 2000, 512, 0, id="nothing-there"),
        pytest.param(2000, 2030, 512, 1920, id="at-least-64-rows-follow"),
        pytest.param(1700, 2030, 512, 1664, id="down-to-a-tile"),
        pytest.param(1539, 1540, 512, 1536, id="where-a-batch-begins-anyway"),
        pytest.param(1536, 1537, 512, 1536, id="one-token-left-there"),
        pytest.param(2047, 2048, 512, 1984, id="the-same-prompt-again"),
        pytest.param(60, 2000, 512, 0, id="less-than-a-tile"),
        pytest.param(950, 1000, 100, 900, id="batches-that-are-no-multiple-of-tiles"),
    ],
)
def test_where_to_go_on(covered: int, length: int, batch: int, expected: int) -> None:
    assert resume_point(covered, length, batch) == expected


def test_every_resume_point_keeps_the_batches_as_they_are() -> None:
    """The rows that follow are in a batch of 64 or more in both cases, or in the very same batch."""
    for length in range(1, 400):
        for covered in range(length):
            start = resume_point(covered, length, 128)
            rest = min(length, (start // 128 + 1) * 128) - start
            assert start <= covered
            assert start % 128 == 0 or (start % 64 == 0 and rest >= 64)


@pytest.mark.engine
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_the_same_answers_with_and_without(real_model: Path, ask: Ask, folder: Path, kv: str) -> None:
    chance = random.Random(kv)
    text = words(1, 1200)
    first = f"{text} {words(2, 30)}"
    assert ask(real_model, first, kv=kv).text == ask(real_model, first, kv=kv, cached=False).text
    for seed in range(3):
        prompt = f"{text} {words(seed + 10, chance.randint(3, 90))}"
        with_it, without = ask(real_model, prompt, kv=kv), ask(real_model, prompt, kv=kv, cached=False)
        assert with_it.text == without.text
        assert (with_it.stats.cached_tokens >= 256, without.stats.cached_tokens) == (True, 0)


@pytest.mark.engine
def test_another_question_about_the_same_text_is_answered_sooner(real_model: Path, ask: Ask) -> None:
    text = words(3, 1500)
    slow = ask(real_model, text + " What is it?", most=1, length=4096)
    fast = ask(real_model, text + " Who walks there?", most=1, length=4096)
    assert slow.stats.cached_tokens == 0
    assert fast.stats.cached_tokens >= 1300
    assert fast.stats.prefill_seconds < slow.stats.prefill_seconds / 3


def write_mamba(path: Path, *, seed: int = 0) -> Path:
    """Make a tiny recurrent model with random weights: its state is that after the last token, and no other."""
    import gguf

    chance = np.random.default_rng(seed)
    inner = 2 * WIDTH
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(CONVOLUTION)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens, merges = _vocabulary(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.ssm_in.weight": (2 * inner, WIDTH),
            f"blk.{layer}.ssm_conv1d.weight": (inner, CONVOLUTION),
            f"blk.{layer}.ssm_conv1d.bias": (inner,),
            f"blk.{layer}.ssm_x.weight": (RANK + 2 * STATE, inner),
            f"blk.{layer}.ssm_dt.weight": (inner, RANK),
            f"blk.{layer}.ssm_dt.bias": (inner,),
            f"blk.{layer}.ssm_d": (inner,),
            f"blk.{layer}.ssm_out.weight": (WIDTH, inner),
        }
    for name, shape in shapes.items():
        writer.add_tensor(name, (chance.standard_normal(shape) * 0.3).astype(np.float32))
    for layer in range(LAYERS):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"blk.{layer}.ssm_a", -chance.uniform(0.5, 2, (inner, STATE)).astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def said(
    model: Path, folder: Path | None, *prompts: list[int], kv: str = "f16", limit: str = "1G", most: int = 8
) -> list[dict[str, Any]]:
    """Answer prompts of token ids in a process of their own, in which every prefill is worth keeping."""
    plan = {"model_path": str(model), "cache_folder": folder and str(folder), "kv_type": kv}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("reuse_program.py")],
        input=json.dumps({"plan": plan, "prompts": prompts, "most": most}),
        env=os.environ | {"LLMRUN_PREFIX_CACHE_LIMIT": limit},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def ids(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(2, 1000), k=count)


@pytest.mark.engine
def test_a_conversation_in_one_process_and_the_next_process(tiny: Path, folder: Path) -> None:
    first = ids(1, 600)
    longer = first + ids(2, 300)
    fresh = [said(tiny, None, prompt)[0]["text"] for prompt in (first, longer)]
    answers = said(tiny, folder, first, longer, first)
    assert [answer["text"] for answer in answers] == [*fresh, fresh[0]]
    assert [answer["cached"] for answer in answers][1:] == [576, 599], "what is kept is made from exact states only"
    (again,) = said(tiny, folder, longer + ids(3, 100))
    assert again["cached"] == 896


@pytest.mark.engine
@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "another-build"])
def test_a_bad_entry_is_ignored_and_written_anew(tiny: Path, folder: Path, damage: str) -> None:
    prompt = ids(1, 600)
    (expected,) = said(tiny, folder, prompt)
    (path,) = folder.glob("*/*.prefix")
    sound = path.read_bytes()
    changed = bytearray(sound)
    if damage == "truncated":
        del changed[len(changed) // 2 :]
    elif damage == "flipped":
        changed[len(changed) // 2] ^= 1
    elif damage == "foreign":
        changed[:] = b"something else entirely" * 1000
    else:
        changed[8] += 1
    path.write_bytes(changed)
    (answer,) = said(tiny, folder, prompt)
    assert answer == expected | {"cached": 0}
    assert path.read_bytes() == sound
    assert said(tiny, folder, prompt)[0]["cached"] == 512


@pytest.mark.engine
def test_a_state_that_the_library_refuses_is_dropped(tiny: Path, folder: Path) -> None:
    """An entry in perfect order whose state is not one of this library's."""
    prompt = ids(1, 600)
    (expected,) = said(tiny, folder, prompt)
    (path,) = folder.glob("*/*.prefix")
    head = read_head(path, None)
    key = path.read_bytes()[KEY_AT : KEY_AT + 32]
    write_entry(path, key, head.label, head.tokens, memoryview(bytes(head.state_bytes)))
    assert said(tiny, folder, prompt) == [expected]
    assert said(tiny, folder, prompt)[0]["cached"] == 512


@pytest.mark.engine
def test_other_models_and_types_have_entries_of_their_own(tiny: Path, windowed: Path, folder: Path) -> None:
    prompt = ids(1, 120)
    prompt *= 4
    for model, kv in ((tiny, "f16"), (tiny, "q8_0"), (windowed, "f16")):
        assert said(model, folder, prompt, kv=kv)[0]["cached"] == 0
    assert len(list(folder.iterdir())) == 3


@pytest.mark.engine
def test_what_cannot_be_kept_is_said_and_the_answer_comes(tiny: Path, folder: Path, tmp_path: Path) -> None:
    prompt = ids(1, 600)
    (expected,) = said(tiny, None, prompt)
    folder.write_text("a file in the way")
    (answer,) = said(tiny, folder, prompt)
    assert answer["text"] == expected["text"]
    assert [notice.startswith("the state of the prompt was not kept: ") for notice in answer["notices"]] == [True]
    (small,) = said(tiny, tmp_path / "small", prompt, limit="1K")
    assert small == expected, "too large for the limit that was asked for: nothing to say"


@pytest.mark.engine
def test_nothing_is_written_without_a_folder(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    (answer,) = said(tiny, None, ids(1, 600))
    assert answer["cached"] == 0
    assert list(empty.iterdir()) == []


@pytest.mark.engine
def test_a_relative_folder_is_below_where_one_stands(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = ids(1, 600)
    assert [said(tiny, Path("here"), prompt)[0]["cached"] for _ in range(2)] == [0, 512]
    assert len(list((tmp_path / "here").glob("*/*.prefix"))) == 1


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["windowed", "recurrent"])
def test_models_whose_memory_cannot_be_cut(kind: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """The second question about a text shows where the text ends, and the third profits; answers stay the same.

    A window that was read back lies in other cells, so that sums are rounded in another order: of random weights, whose
    calls are all close, only the first words are compared.
    """
    model = request.getfixturevalue(kind)
    text = ids(1, 1000)
    questions = [text + ids(seed, 40) for seed in (11, 12, 13)]
    plain = [said(model, None, question, most=4)[0]["text"] for question in questions]
    answers = [said(model, folder, question, most=4)[0] for question in questions]
    assert [answer["text"] for answer in answers] == plain
    assert [answer["cached"] for answer in answers] == [0, 0, 960]
    assert len(set(plain)) > 1, "or the comparison says nothing"


@pytest.mark.engine
def test_a_window_that_has_moved_on_is_not_reused_in_memory_either(windowed: Path) -> None:
    text = ids(1, 1500)
    other = text[:300] + ids(2, 20)
    expected = said(windowed, None, other)[0]["text"]
    _, answer = said(windowed, None, text, other)
    assert answer == {"text": expected, "cached": 0, "notices": []}
