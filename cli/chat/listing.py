"""`llmrun chat --list`: the sessions there are, the one last used first."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llmrun.cli.chat.state import count_turns, shortened
from llmrun.engines.conversation.sessions import SessionSummary

__all__ = ["list_document", "list_text"]

SCHEMA_VERSION = 1
_FIRST_CHARACTERS = 48


def list_document(sessions: Sequence[SessionSummary]) -> dict[str, Any]:
    """Return the document of `chat --list --json`."""
    return {"version": SCHEMA_VERSION, "sessions": [_entry(session) for session in sessions]}


def _entry(session: SessionSummary) -> dict[str, Any]:
    conversation = session.conversation
    entry: dict[str, Any] = {"name": session.name, "path": str(session.path), "updated": session.updated}
    if conversation is None:
        return entry | {"error": session.error}
    model = conversation.model
    return entry | {
        "model": model.model if model else None,
        "engine": model.engine if model else None,
        "turns": len(conversation.turns),
        "first": _first(session, None),
    }


def list_text(sessions: Sequence[SessionSummary]) -> str:
    """Return a table: name, when, turns, model, and how the conversation begins."""
    rows = [_row(session) for session in sessions]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    return "".join(
        f"{name:<{widths[0]}}  {when:<{widths[1]}}  {turns:>{widths[2]}}  {model:<{widths[3]}}  {first}\n"
        for name, when, turns, model, first in rows
    )


def _row(session: SessionSummary) -> tuple[str, str, str, str, str]:
    when = datetime.fromisoformat(session.updated).astimezone().strftime("%Y-%m-%d %H:%M")
    conversation = session.conversation
    if conversation is None:
        return session.name, when, "-", "-", f"damaged: {session.error}"
    return (
        session.name,
        when,
        count_turns(len(conversation.turns)),
        _short_model(conversation.model.model) if conversation.model else "-",
        _first(session, _FIRST_CHARACTERS) or "",
    )


def _short_model(model: str) -> str:
    """Return the name of a model; of a path the last part."""
    return Path(model).name if model.startswith("/") else model


def _first(session: SessionSummary, limit: int | None) -> str | None:
    """Return how a conversation begins, on one line."""
    conversation = session.conversation
    if conversation is None or not conversation.turns:
        return None
    first = conversation.turns[0].question.content
    return " ".join(first.split()) if limit is None else shortened(first, limit)
