"""The folder of sessions: what they may be called, which is the newest, and what is in each."""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llmrun import __version__
from llmrun.engines.conversation.conversation import Conversation, replay
from llmrun.engines.conversation.records import Header
from llmrun.engines.conversation.session_file import SUFFIX, SessionFile, read_session
from llmrun.errors import LlmrunError, UsageError
from llmrun.folders import data_folder

__all__ = ["SessionSummary", "check_name", "list_sessions", "new_name", "newest_session", "now", "open_session"]
__all__ += ["session_names", "session_path"]

FOLDER = "sessions"
_NAME = re.compile(r"\w[\w.-]{0,99}")
_MAX_NAME_BYTES = 240  # a file name has 255 at most


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSummary:
    """A session as a list shows it.

    Attributes:
        name: Its name, with `path` its file.
        updated: When it was last written, ISO 8601 in UTC.
        conversation: What it holds; None if it is damaged, and `error` says how.
    """

    name: str
    path: Path
    updated: str
    conversation: Conversation | None
    error: str | None = None


def now() -> str:
    """Return the time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def check_name(name: str) -> str:
    """Return the name of a session if it is one: it becomes a file name, and nothing else than one.

    Raises:
        UsageError: It is none.
    """
    if not _NAME.fullmatch(name) or len(name.encode()) > _MAX_NAME_BYTES:
        raise UsageError(
            f"a session cannot be called {name[:120]!r}",
            fix="up to 100 letters, digits, hyphens, underscores and dots, beginning with a letter or digit",
        )
    return name


def new_name() -> str:
    """Return a name for a new session that none has: the time."""
    stem = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    names = set(session_names())
    return next(name for name in (stem, *(f"{stem}-{count}" for count in range(2, 10_000))) if name not in names)


def session_path(name: str) -> Path:
    """Return the file of a session, whether it is there or not."""
    return data_folder(FOLDER) / (check_name(name) + SUFFIX)


def open_session(name: str) -> SessionFile:
    """Open or begin a session; while it is open, no other chat can.

    Raises:
        LlmrunError: The name is none, or the file is in use, damaged or out of reach.
    """
    return SessionFile(session_path(name), Header(created=now(), program=f"llmrun {__version__}"))


def session_names() -> list[str]:
    """Return the names of all sessions, the one last written to first."""
    return [path.stem for path in _paths()]


def newest_session() -> str | None:
    """Return the session that was last written to."""
    return next(iter(session_names()), None)


def list_sessions() -> list[SessionSummary]:
    """Return what there is, the one last written to first; a damaged file is listed as one."""
    found = []
    for path in _paths():
        with suppress(FileNotFoundError):
            updated = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
            conversation, error = None, None
            try:
                conversation = replay(read_session(path).records)
            except LlmrunError as failure:
                error = failure.message
            found.append(
                SessionSummary(
                    name=path.stem,
                    path=path,
                    updated=updated.replace("+00:00", "Z"),
                    conversation=conversation,
                    error=error,
                )
            )
    return found


def _paths() -> list[Path]:
    found = []
    for path in data_folder(FOLDER).glob(f"*{SUFFIX}"):
        with suppress(OSError):
            found.append((path.stat().st_mtime_ns, path.name, path))
    return [path for _, _, path in sorted(found, reverse=True)]
