"""Writing to standard output and standard error so that scripts can rely on it.

Standard output carries the answer or one JSON document, and nothing else. It is written without a buffer of Python's,
so that an error is seen where it happens: a reader that went away ends the command silently (141), anything else
is an error (74). On a terminal the text is made inert first: a model's output must not be able to drive the terminal.
"""

import json
import os
import sys
from typing import Any

from llmrun.errors import LlmrunError, OutputError

__all__ = [
    "StreamClosed",
    "TerminalWriter",
    "inert",
    "marks",
    "report_error",
    "report_line",
    "silence_stdout",
    "write_json",
    "write_out",
]

_BIDI_CONTROLS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_INERT = dict.fromkeys(
    [*(code for code in range(0x20) if chr(code) not in "\n\t"), *range(0x7F, 0xA0), *_BIDI_CONTROLS, 0x2028, 0x2029]
)


class StreamClosed(BaseException):
    """The reader of standard output went away. Not an error: `llmrun … | head` is ordinary."""


def inert(text: str) -> str:
    """Return `text` without what a terminal would obey: C0 (but newline and tab), DEL, C1, bidi controls."""
    return text.translate(_INERT)


def write_out(text: str) -> None:
    """Write text to standard output, at once.

    Raises:
        StreamClosed: The reader is gone.
        OutputError: It cannot be written: the disk is full, or standard output is closed.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    data = memoryview(text.encode(encoding, "replace"))
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError as error:
        raise StreamClosed from error
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def write_json(document: dict[str, Any]) -> None:
    """Write one JSON document to standard output; text beyond ASCII is escaped where the encoding is not UTF-8."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    write_out(json.dumps(document, indent=2, ensure_ascii=encoding not in ("utf-8", "utf8")) + "\n")


def marks() -> tuple[str, str]:
    """Return the signs for yes and no that standard output can show."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        "✓✗".encode(encoding)
    except UnicodeEncodeError:
        return "yes", "no "
    return "✓", "✗"


def silence_stdout() -> None:
    """Point standard output at nothing, so that the interpreter has nothing to complain about when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def report_line(text: str) -> None:
    """Write one line to standard error; if that cannot be written, nothing can be told to anybody."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    try:
        os.write(2, (inert(text) + "\n").encode(encoding, "backslashreplace"))
    except OSError:
        return


def report_error(error: LlmrunError) -> None:
    """Say what happened, and what mends it."""
    report_line(f"llmrun: error: {error.message}")
    if error.fix:
        report_line(f"  fix: {error.fix}")


class TerminalWriter:
    """Streams an answer: through rich on a terminal, as it is into a pipe or a file."""

    def __init__(self) -> None:
        self._is_terminal = os.isatty(1)
        self._at_line_start = True
        self._console: Any = None
        self._segment: Any = None
        self._segments: Any = None
        if self._is_terminal:
            from rich.console import Console
            from rich.segment import Segment, Segments

            self._segment, self._segments = Segment, Segments
            self._console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)

    def write(self, text: str) -> None:
        """Show a piece of the answer at once."""
        if not self._is_terminal:
            self._at_line_start = text.endswith("\n")
            write_out(text)
            return
        text = inert(text)
        if not text:
            return
        self._at_line_start = text.endswith("\n")
        try:
            # A segment goes out as it is: a Text would have its tabs expanded from the start of each piece.
            self._console.print(self._segments([self._segment(text)]), end="", soft_wrap=True)
            self._console.file.flush()
        except UnicodeEncodeError:
            write_out(text)
        except BrokenPipeError as error:
            raise StreamClosed from error
        except OSError as error:
            raise OutputError(f"the terminal cannot be written: {error.strerror}") from error

    def end(self) -> None:
        """End the last line."""
        if not self._at_line_start:
            self.write("\n")
