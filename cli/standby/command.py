"""A command as the process that carries it out sees it."""

from dataclasses import dataclass

__all__ = ["Command", "decode_command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What was typed, and where.

    Attributes:
        circumstances: From `describe_circumstances`.
        umask: Of new files.
        ignored: Numbers of the signals that are to be ignored, as after nohup.
        arguments: Behind the program's name.
        environment: `NAME=VALUE` each.
    """

    circumstances: str
    umask: int
    ignored: tuple[int, ...]
    arguments: tuple[str, ...]
    environment: tuple[str, ...]


def decode_command(data: bytes) -> Command:
    """Return the command that the bytes of `encode_command` stand for.

    Raises:
        ValueError: They stand for none.
    """
    circumstances, umask, numbers, count, *rest = data.decode("utf-8", "surrogateescape").split("\0")
    size = int(count)
    return Command(
        circumstances=circumstances,
        umask=int(umask),
        ignored=tuple(int(number) for number in numbers.split()),
        arguments=tuple(rest[:size]),
        environment=tuple(rest[size:]),
    )
