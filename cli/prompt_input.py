"""Where a prompt comes from: files, standard input and the argument, in this order, with an empty line between them.

The instruction comes last because models follow best what they read last, and because a long file in front of changing
questions is a prefix that engines can keep.
"""

import os
import select
from collections.abc import Sequence
from pathlib import Path

from llmrun.errors import UsageError
from llmrun.values import value

__all__ = ["PromptInput", "PromptSource", "assemble_prompt", "read_file", "read_prompt", "read_stdin"]

_PATIENCE_SECONDS = 2.0


@value
class PromptSource:
    """Something that was read: a file, or standard input (`path` is None)."""

    path: Path | None
    data: bytes


@value
class PromptInput:
    """What the user wants answered.

    Attributes:
        typed: The argument, or None.
        attached: Contents of files and standard input, in order.
        notices: What was odd about them.
        sources: What was read, as it was.
    """

    typed: str | None
    attached: tuple[str, ...]
    notices: tuple[str, ...]
    sources: tuple[PromptSource, ...] = ()

    @property
    def text(self) -> str:
        """All of it as one text."""
        return "\n\n".join([*self.attached, *([self.typed] if self.typed else [])])


def read_prompt(argument: str | None, files: Sequence[Path], *, quiet: bool) -> PromptInput:
    """Read everything the prompt is made of.

    Raises:
        UsageError: There is no prompt, it is blank, or a file cannot be read.
    """
    sources = [PromptSource(path=path, data=read_file(path)) for path in files]
    piped = read_stdin(quiet=quiet)
    if piped:
        sources.append(PromptSource(path=None, data=piped))
    return assemble_prompt(None if argument is None else os.fsencode(argument), sources)


def assemble_prompt(typed: bytes | None, sources: Sequence[PromptSource]) -> PromptInput:
    """Put together what was typed and what was read.

    Raises:
        UsageError: Nothing of it is more than blanks.
    """
    notices: list[str] = []
    attached = [_decode(source.data, str(source.path or "standard input"), notices) for source in sources]
    prompt = PromptInput(
        typed=None if typed is None else _decode(typed, "the prompt", notices),
        attached=tuple(text.strip("\n") for text in attached if text.strip()),
        notices=tuple(notices),
        sources=tuple(sources),
    )
    if not prompt.text.strip():
        raise UsageError(
            "the prompt is empty",
            fix='llmrun run MODEL "your question", or text on standard input, or --file PATH',
        )
    return prompt


def read_file(path: Path) -> bytes:
    """Return what is in a file.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--file {path} cannot be read: {error.strerror or error}") from error


def read_stdin(*, quiet: bool) -> bytes:
    """Return what is piped in; nothing when standard input is a terminal or closed."""
    try:
        if os.isatty(0):
            return b""
        if not quiet and not select.select([0], [], [], _PATIENCE_SECONDS)[0]:
            from llmrun.cli.output import report_line

            report_line("llmrun: reading the prompt from standard input until it ends (</dev/null if there is none)")
        pieces = []
        while piece := os.read(0, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces)
    except (OSError, ValueError):
        return b""  # closed


def _decode(data: bytes, source: str, notices: list[str]) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        notices.append(f"{source} is not UTF-8 (byte {error.start:,}): what cannot be read was replaced by U+FFFD")
        return data.decode("utf-8", "replace")
