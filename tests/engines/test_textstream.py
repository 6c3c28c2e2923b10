"""Bytes of tokens become whole characters, and stop texts are found wherever the token edges fall."""

import random

import pytest

from llmrun.engines.textstream import TextStream


def pieces_of(data: bytes, sizes: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stop)
    out, at = [], 0
    for size in [*sizes, len(data)]:
        out.append(stream.feed(data[at : at + size]))
        at += size
        if stream.stopped:
            break
    out.append(stream.finish())
    return out, stream.stopped


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        pytest.param("plain", (), "plain", id="no stop"),
        pytest.param("one END two", ("END",), "one ", id="stop in the middle"),
        pytest.param("ENENEND", ("END",), "ENEN", id="false starts before the stop"),
        pytest.param("almost EN", ("END",), "almost EN", id="half a stop at the end is text"),
        pytest.param("a\n\nb", ("\n\n", "b"), "a", id="the earliest of several stops"),
        pytest.param("aXbX", ("XbX", "X"), "a", id="overlapping stops at one place"),
        pytest.param("日本語。終わり", ("終",), "日本語。", id="beyond ASCII"),
        pytest.param("👩‍🚀 ok", (), "👩‍🚀 ok", id="emoji of several code points"),
    ],
)
def test_result_does_not_depend_on_where_the_pieces_are_cut(text: str, stop: tuple[str, ...], expected: str) -> None:
    data = text.encode()
    rng = random.Random(7)
    for _ in range(50):
        sizes = [rng.randint(1, 3) for _ in range(len(data))]
        out, stopped = pieces_of(data, sizes, stop)
        assert "".join(out) == expected
        assert stopped == (expected != text)


def test_no_piece_holds_part_of_a_character() -> None:
    out, _ = pieces_of("a😀b".encode(), [1] * 6)
    assert [piece for piece in out if piece] == ["a", "😀", "b"]


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    out, _ = pieces_of(b"a\xffb\xf0\x9f", [1] * 5)
    assert "".join(out) == "a�b�"


def test_text_before_a_possible_stop_is_not_held_back() -> None:
    stream = TextStream(("STOP",))
    assert stream.feed(b"hello S") == "hello "
    assert stream.feed(b"un") == "Sun"
