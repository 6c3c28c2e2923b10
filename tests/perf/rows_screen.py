"""What the terminal view of `llmrun chat` adds between a piece of an answer and the screen.

Each text is fed in pieces of the size of tokens; the time of one piece runs from `feed` to the end of its last write.
The writes go to a pseudo-terminal that is read all the while, as a terminal would.
"""

import os
import pty
import re
import statistics
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench import Bench
from pairs import Row
from rich.color import ColorSystem

from llmrun.cli.chat.screen.pane import Paint
from llmrun.cli.chat.screen.view import ScreenView

__all__ = ["measure_screen"]

_PROSE = (
    "The tides are caused by the **gravity of the Moon** and, to a smaller part, by that of the Sun. Water on the side "
    "that faces the Moon is pulled *more* than the Earth itself, and `F = G·m·M/r²` says by how much. "
)
_LIST = "".join(
    f"{number}. **Point {number}**: a sentence with some words about it, and a `name` in code.\n   - more of it\n"
    for number in range(1, 41)
)
_CODE = (
    "```python\n"
    + "".join(
        f"def function_{number}(value: int, name: str = 'x') -> dict[str, int]:\n"
        f'    """Return {number} things."""\n    return {{name: value * {number}}}  # and so on\n\n\n'
        for number in range(40)
    )
    + "```\n"
)
_TABLE = "| Name | Value | About |\n|---|---:|---|\n" + "".join(
    f"| row {number} | {number * 17} | some words about **row** {number} |\n" for number in range(40)
)
_JAPANESE = "日本語の文章です。これはとても長い段落で、**端末の幅**を超えると折り返されます。絵文字😀も入ります。" * 12
STREAMS = {
    "paragraphs": "\n\n".join([_PROSE * 3] * 6),
    "one paragraph of 1,000 words": _PROSE * 18,
    "a list of 80 items": _LIST,
    "code of 200 lines": _CODE,
    "a table of 40 rows": _TABLE,
    "Japanese": _JAPANESE,
}
_PIECES = re.compile(r"\s?\w{1,6}|\s+|[^\w\s]{1,2}")


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds that pieces took: the median, the 99th percentile and the longest."""

    pieces: int
    median: float
    percentile_99: float
    longest: float


def measure_delay(text: str, *, plain: bool = False, columns: int = 80, rows: int = 24) -> Delay:
    """Feed a text piece by piece, and return what the pieces took."""
    with _terminal(columns, rows) as write:
        view = ScreenView(
            Paint(ColorSystem.EIGHT_BIT), write, write, think="dim", plain=plain, size=lambda: (columns, rows)
        )
        view.begin()
        taken = []
        for piece in _PIECES.findall(text):
            started = time.perf_counter()
            view.feed(piece)
            taken.append(time.perf_counter() - started)
        view.end(cancelled=False)
    taken.sort()
    return Delay(len(taken), statistics.median(taken), taken[int(len(taken) * 0.99)], taken[-1])


class _terminal:  # noqa: N801 - a context manager
    """A pseudo-terminal that somebody reads; gives what writes to it."""

    def __init__(self, columns: int, rows: int) -> None:
        self._ours, self._theirs = pty.openpty()
        termios.tcsetwinsize(self._theirs, (rows, columns))
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Callable[[str], None]:
        self._reader.start()
        return lambda text: self._write(text.encode())

    def __exit__(self, *_: object) -> None:
        os.close(self._theirs)
        self._reader.join(timeout=5)
        os.close(self._ours)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._theirs, data) :]

    def _read(self) -> None:
        try:
            while os.read(self._ours, 65536):
                pass
        except OSError:
            return


def measure_screen(_bench: Bench) -> Iterator[Row]:
    """Measure every text, rendered; what `--plain` takes is said below."""
    for name, text in STREAMS.items():
        delay, plain = measure_delay(text), measure_delay(text, plain=True)
        yield Row(
            name=f"`chat` at a terminal, from a piece to the screen: {name}; 99 % of the pieces",
            medians=f"{delay.median * 1000:.2f} ms; {delay.percentile_99 * 1000:.2f} ms",
            ratio=f"`--plain`: {plain.median * 1000:.3f} ms",
            wanted="at most 2 ms",
            pairs=delay.pieces,
        )


if __name__ == "__main__":
    for name, text in STREAMS.items():
        for plain in (False, True):
            print(name, "plain" if plain else "rendered", measure_delay(text, plain=plain))
