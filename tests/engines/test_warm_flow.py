"""What a command does around its worker: find one, use it, leave it behind or not."""

import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from warm_helpers import SAMPLING, Warm, ended, segments, text_of, warm

from llmrun.engines.client import WorkerClient
from llmrun.engines.plan import PlanRequest
from llmrun.engines.types import EngineName, FinishReason, LoadPlan
from llmrun.engines.warm.flow import attach_warm, keep_alive_seconds, make_warm_target, release, slow_start_hint
from llmrun.engines.warm.folder import process_born, runtime_folder
from llmrun.engines.warm.record import WarmTarget
from llmrun.engines.warm.workers import find_warm, list_warm
from llmrun.errors import UsageError
from llmrun.models.types import LocalModel, ModelFile, ModelRef, RefKind

__all__ = ["warm"]


def local_model(path: Path) -> LocalModel:
    size = path.stat().st_size
    return LocalModel(
        ref=ModelRef(kind=RefKind.PATH, text="the-model", name=str(path)),
        path=path,
        files=(ModelFile(path=path, size_bytes=size),),
    )


def target_of(warm: Warm, **asked: int) -> WarmTarget:
    target = make_warm_target(local_model(warm.model), EngineName.FAKE, PlanRequest(**asked))  # type: ignore[arg-type]
    assert target is not None
    return target


def run(warm: Warm, prompt: str, keep: float | None) -> tuple[str, bool, tuple[str, ...]]:
    """Do what the command does; return the answer, whether the worker was warm, and the notices at the end."""
    target = target_of(warm)
    worker = attach_warm(target) or WorkerClient(EngineName.FAKE)
    warm.clients.append(worker)
    try:
        worker.send_load(warm.plan())
        worker.send_generate(segments(prompt), SAMPLING)
        worker.wait_loaded()
        text = text_of(worker.events())[0]
    finally:
        notices = release(worker, target, keep)
    return text, worker.warm, notices


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600),
        ("30s", 30),
        ("1h", 3600),
        ("1.5h", 5400),
        ("90", 90),
        ("0", 0),
        (" 10M ", 600),
        ("forever", math.inf),
        ("99999999h", math.inf),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert keep_alive_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "10 m", "1d", "inf", "nan", "1e3", "٣m", "10mm"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="--keep-alive wants"):
        keep_alive_seconds(text)


def test_commands_one_after_the_other(warm: Warm) -> None:
    assert run(warm, "one", None) == ("one", False, ())
    assert list_warm() == []
    assert run(warm, "two", 60) == ("two", False, ())
    assert run(warm, "three", None) == ("three", True, ())
    assert run(warm, "four", 60) == ("four", True, ())
    (worker,) = list_warm()
    assert run(warm, "five", 0) == ("five", True, ())
    assert ended(worker, 0)
    assert run(warm, "six", 0) == ("six", False, ())
    assert list_warm() == []


def test_without_weights_there_is_nothing_to_keep(warm: Warm) -> None:
    model = local_model(warm.model)
    assert make_warm_target(model, None, PlanRequest(vocabulary_only=True)) is None
    assert attach_warm(None) is None
    client = warm.cold()
    assert release(client, None, 60) == ()
    assert client.closed
    assert list_warm() == []


def test_files_of_a_draft_model_count(warm: Warm) -> None:
    draft = warm.folder / "draft.gguf"
    draft.write_bytes(b"small")
    model = local_model(warm.model)
    plain = make_warm_target(model, None, PlanRequest())
    drafted = make_warm_target(model, None, PlanRequest(), [draft])
    assert plain is not None
    assert drafted is not None
    assert plain.key != drafted.key
    assert drafted.change() is None
    draft.unlink()
    assert drafted.change() is not None


def test_two_at_once_leave_one(warm: Warm) -> None:
    first, second = warm.cold(), warm.cold()
    target = target_of(warm)
    assert release(first, target, 60) == ()
    assert release(second, target, 60) == ()
    (worker,) = list_warm()
    assert worker.pid == first.pid
    assert process_born(second.pid) is None


def test_many_at_the_same_moment_leave_one(warm: Warm) -> None:
    clients = [warm.cold() for _ in range(5)]
    target = target_of(warm)
    threads = [threading.Thread(target=release, args=(client, target, 60)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    (worker,) = list_warm()
    others = {client.pid for client in clients} - {worker.pid}
    assert len(others) == 4
    assert all(process_born(pid) is None for pid in others)


def test_a_busy_one_is_not_waited_for(warm: Warm) -> None:
    release(warm.cold(), target_of(warm), 60)
    holder = attach_warm(target_of(warm))
    assert holder is not None
    assert attach_warm(target_of(warm)) is None
    holder.close()


def test_what_never_loaded_is_ended(warm: Warm) -> None:
    client = WorkerClient(EngineName.FAKE)
    assert release(client, target_of(warm), 60) == ()
    assert process_born(client.pid) is None


def test_a_crashed_worker_is_not_kept(warm: Warm) -> None:
    warm.script(answer="abc", crash_signal=11, crash_at=2)
    client = warm.cold()
    with pytest.raises(Exception, match="SIGSEGV"):
        list(client.generate(segments("hi"), SAMPLING))
    assert release(client, target_of(warm), 60) == ()
    assert list_warm() == []


def test_an_interrupted_answer_leaves_the_worker(warm: Warm) -> None:
    warm.script(answer="x" * 4000, token_seconds=0.02)
    client = warm.cold()
    next(client.generate(segments("hi"), SAMPLING))
    _, done = text_of(client.cancel())
    assert done.finish_reason is FinishReason.CANCELLED
    assert release(client, target_of(warm), 60) == ()
    assert find_warm(target_of(warm)) is not None


def test_a_folder_that_cannot_be_used_costs_only_a_notice(warm: Warm) -> None:
    client = warm.cold()
    runtime_folder().chmod(0o777)
    (notice,) = release(client, target_of(warm), 60)
    assert "does not stay loaded" in notice
    assert "open to others" in notice
    assert process_born(client.pid) is None


def test_a_model_that_changed_meanwhile_is_not_kept(warm: Warm) -> None:
    client, target = warm.cold(), target_of(warm)
    warm.model.write_bytes(b"other")
    (notice,) = release(client, target, 60)
    assert "was changed" in notice
    assert list_warm() == []


def test_only_a_slow_start_earns_a_hint(warm: Warm) -> None:
    client = warm.cold()
    assert slow_start_hint(client) is None
    client.phases["load"] = 31.2
    hint = slow_start_hint(client)
    assert hint is not None
    assert "starting took 3" in hint
    assert "--keep-alive 10m" in hint
    client.warm = True
    assert slow_start_hint(client) is None


@pytest.mark.engine
def test_a_real_model_stays_loaded_and_reuses_what_it_has_read(warm: Warm, real_model: Path) -> None:
    plan = LoadPlan(engine=EngineName.LLAMA_CPP, model_path=str(real_model), context_length=2048, threads=2)
    options = replace(SAMPLING, max_tokens=8)
    target = make_warm_target(local_model(real_model), None, PlanRequest())
    assert target is not None
    client = WorkerClient(EngineName.LLAMA_CPP)
    warm.clients.append(client)
    client.load(plan)
    counting = ", ".join(str(number) for number in range(1, 120))
    prompt = segments(f"Count on: {counting}, 120, 121,")
    cold = text_of(client.generate(prompt, options))
    assert release(client, target, 60) == ()
    attached = attach_warm(target)
    assert attached is not None
    warm.clients.append(attached)
    assert attached.pid == client.pid
    text, done = text_of(attached.generate(prompt, options))
    assert text == cold[0]
    assert done.stats.prefill_seconds < cold[1].stats.prefill_seconds / 2
    assert text_of(attached.generate(segments("1, 2, 3, 4,"), options))[0] != ""
    release(attached, target, 0)
    assert list_warm() == []
