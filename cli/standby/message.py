"""What a command tells the process that is to carry it out, and what that one answers.

The command sends itself, with its three standard files and its folder as descriptors. The other side answers WILLING
or closes the connection; the command commits itself with GO, so that a side that gave up meanwhile is never served.
From then on each byte is the number of a signal that the command got, and the answer is the exit status in four bytes,
negative for a signal as in `subprocess`.

No text in a command can hold a NUL, which is what its parts are divided by.
"""

from collections.abc import Iterable, Sequence

__all__ = ["GO", "LIMIT_BYTES", "SOCKET_NAME", "WILLING", "encode_command"]

SOCKET_NAME = "standby.sock"
WILLING, GO = b"+", b"!"
LIMIT_BYTES = 8 << 20


def encode_command(
    circumstances: str, umask: int, ignored: Iterable[int], arguments: Sequence[str], environment: Iterable[str]
) -> bytes:
    """Return a command as bytes; its parts are those of `command.Command`."""
    head = (circumstances, str(umask), " ".join(map(str, ignored)), str(len(arguments)))
    return "\0".join((*head, *arguments, *environment)).encode("utf-8", "surrogateescape")
