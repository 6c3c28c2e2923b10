"""Turns from a pipe or a file, one on each line, and answers without any decoration: what scripts want.

Nothing in a line is a command: a program that feeds text into a chat must not have to know which lines those would be.
A terminal that can do nothing but write lines (TERM=dumb) has a prompt and commands, and the same plain answers.
"""

import os
import sys

from llmrun.cli.chat.turns import AnswerStatus
from llmrun.cli.output import TerminalWriter, report_line, write_out
from llmrun.engines.conversation.reasoning import ReasoningSplitter

__all__ = ["DumbReader", "PipedReader", "PipedView"]

_CHUNK_BYTES = 1 << 16


class PipedReader:
    """Reads a line for each turn from standard input; blank ones are passed over."""

    def __init__(self, view: "PipedView") -> None:
        self._view = view
        self._held = bytearray()
        self._ended = sys.stdin is None  # closed: the descriptor may be something else's by now
        self._is_first = True

    def read(self) -> str:
        """Return the next line that is not blank.

        Raises:
            EOFError: There is none.
        """
        while True:
            text = self._decode(self._line())
            if text.strip():
                return text

    def _line(self) -> bytes:
        while (end := self._held.find(b"\n")) < 0 and not self._ended:
            try:
                data = os.read(0, _CHUNK_BYTES)
            except OSError:  # closed
                data = b""
            self._held += data
            self._ended = not data
        if end < 0:
            end = len(self._held)
            if not end:
                raise EOFError
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line.removesuffix(b"\r")

    def _decode(self, line: bytes) -> str:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            self._view.notice(f"a line is not UTF-8 (byte {error.start:,}): what cannot be read was replaced by U+FFFD")
            return line.decode("utf-8", "replace")


class DumbReader:
    """Asks for a line at a time on a terminal that cannot move its cursor."""

    def __init__(self, view: "PipedView") -> None:
        self._lines = PipedReader(view)

    def read(self) -> str:
        """Return the next line.

        Raises:
            EOFError: Ctrl-D, or Ctrl-C twice.
        """
        interrupted = False
        while True:
            os.write(2, b"> ")
            try:
                return self._lines.read()
            except KeyboardInterrupt:
                if interrupted:
                    raise EOFError from None
                interrupted = True
                report_line("\nCtrl-C once more leaves, and so does Ctrl-D")


class PipedView:
    """Writes answers to standard output as they come, each with a newline at its end; notices to standard error.

    Args:
        hide_reasoning: Leave out what the model thinks before it answers.
        quiet: Leave out the notices.
        marks_stopped: Say when an answer was stopped; where nobody is there, the exit code does.
    """

    def __init__(self, *, hide_reasoning: bool, quiet: bool, marks_stopped: bool = False) -> None:
        self._hide_reasoning = hide_reasoning
        self._quiet = quiet
        self._marks_stopped = marks_stopped
        self._writer = TerminalWriter()
        self._splitter = ReasoningSplitter()
        self._is_empty = True

    def begin(self) -> None:
        """Start anew."""
        self._splitter = ReasoningSplitter()
        self._is_empty = True

    def feed(self, text: str) -> None:
        """Write a piece."""
        if self._hide_reasoning:
            text = "".join(piece.text for piece in self._splitter.feed(text) if piece.kind == "answer")
        self._write(text)

    def _write(self, text: str) -> None:
        if self._hide_reasoning and self._is_empty:
            text = text.lstrip("\n")  # between the reasoning and the answer
        if text:
            self._is_empty = False
            self._writer.write(text)

    def end(self, *, cancelled: bool) -> None:
        """End the last line; an empty answer is an empty line."""
        if self._hide_reasoning:
            self._write("".join(piece.text for piece in self._splitter.finish() if piece.kind == "answer"))
        if self._is_empty:
            write_out("\n")
        self._writer.end()
        if cancelled and self._marks_stopped:
            report_line("(stopped)")

    def status(self, status: AnswerStatus) -> None:
        """Say nothing: nobody reads along."""

    def notice(self, text: str) -> None:
        """Write a line to standard error."""
        if not self._quiet:
            report_line(f"llmrun: {text}")
