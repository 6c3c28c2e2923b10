"""The number of decode threads as the library is told it."""

import pytest

from llmrun.engines.llama_cpp.threads import DecodeThreads
from llmrun.engines.types import EngineName, LoadPlan


class Library:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    def llama_set_n_threads(self, context: str, threads: int, batch_threads: int) -> None:
        self.told.append((context, threads, batch_threads))


def make(threads: int = 2, gpu_layers: int = 0, threads_are_fixed: bool = False) -> tuple[Library, DecodeThreads]:
    library = Library()
    plan = LoadPlan(
        engine=EngineName.LLAMA_CPP,
        model_path="m.gguf",
        context_length=512,
        threads=threads,
        gpu_layers=gpu_layers,
        threads_are_fixed=threads_are_fixed,
    )
    return library, DecodeThreads(library, plan)


def slow_down(threads: DecodeThreads) -> None:
    """Tell of tokens that suddenly take much longer."""
    threads.begin("context")
    for seconds in [0.02] * 20 + [0.1] * 20:
        threads.observe("context", (seconds,))


def test_beside_another_program_tokens_and_guesses_get_fewer_threads() -> None:
    library, threads = make()
    slow_down(threads)
    assert ("context", 1, 1) in library.told


def test_a_change_of_mind_says_nothing_about_the_tokens_before_it() -> None:
    library, threads = make()
    threads.begin("context")
    threads.observe("context", [0.02] * 20)
    assert threads.patience is None
    threads.observe("context", [0.1] * 50)  # all of them with two threads
    assert library.told[-1] == ("context", 1, 1)
    assert threads.patience == 3, "the one that pays for the change, and two that may show that it is hopeless"
    threads.observe("context", [0.1, 0.25])
    assert threads.patience == 1
    threads.observe("context", [0.25])
    assert library.told[-1] == ("context", 2, 2)
    assert threads.patience is None


def test_a_repeatable_answer_keeps_all_threads() -> None:
    library, threads = make()
    slow_down(threads)
    threads.begin("context", repeatable=True)
    assert library.told[-1] == ("context", 2, 2)
    told = len(library.told)
    for _ in range(40):
        threads.observe("context", (0.5,))
    assert len(library.told) == told


def test_the_next_prompt_gets_all_threads() -> None:
    library, threads = make()
    slow_down(threads)
    threads.end("context")
    assert library.told[-1][2] == 2


def test_a_larger_context_gets_the_number_of_the_last_one() -> None:
    library, threads = make()
    slow_down(threads)
    last = library.told[-1][1]
    threads.apply("larger context")
    assert library.told[-1] == ("larger context", last, last)


@pytest.mark.parametrize(
    "library_and_threads",
    [
        pytest.param(make(threads_are_fixed=True), id="fixed by the user"),
        pytest.param(make(gpu_layers=-1), id="on a GPU"),
        pytest.param(make(threads=1), id="one thread"),
    ],
)
def test_elsewhere_it_is_left_alone(library_and_threads: tuple[Library, DecodeThreads]) -> None:
    library, threads = library_and_threads
    slow_down(threads)
    assert not library.told
