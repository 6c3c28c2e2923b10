"""A conversation as a document: Markdown to read, JSON in the form that chat APIs take."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmrun.engines.conversation.conversation import Conversation
from llmrun.engines.conversation.records import MessageRecord
from llmrun.errors import StorageError, UsageError

__all__ = ["export_conversation", "to_json", "to_markdown"]

SCHEMA_VERSION = 1


def export_conversation(conversation: Conversation, path: Path) -> None:
    """Write a conversation to a new file, in the form that the end of its name says.

    Raises:
        UsageError: The name says neither, or the file is there already.
        StorageError: It cannot be written.
    """
    if path.suffix.lower() == ".json":
        text = json.dumps(to_json(conversation), indent=2, ensure_ascii=False) + "\n"
    elif path.suffix.lower() in (".md", ".markdown"):
        text = to_markdown(conversation)
    else:
        raise UsageError(f"{path} ends neither in .md nor in .json", fix="/export FILE.md, or /export FILE.json")
    data = text.encode("utf-8", "replace")
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
    except FileExistsError:
        raise UsageError(f"{path} is there already", fix="take another name") from None
    except OSError as error:
        with suppress(OSError):
            if path.stat().st_size < len(data):
                path.unlink()
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def to_markdown(conversation: Conversation) -> str:
    """Return a conversation with a heading for each message; reasoning as a quotation."""
    parts = []
    if conversation.model:
        parts.append(f"*{conversation.model.model}, on {conversation.model.engine}*")
    if conversation.system:
        parts += ["## System", conversation.system]
    for turn in conversation.turns:
        parts += ["## User", turn.question.content]
        if turn.answer is not None:
            parts += ["## Assistant", *_answer_parts(turn.answer)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _answer_parts(answer: MessageRecord) -> list[str]:
    parts = []
    if answer.reasoning:
        parts.append("\n".join(f"> {line}".rstrip() for line in answer.reasoning.strip().splitlines()))
    parts.append(answer.content)
    if answer.cancelled:
        parts.append("*(stopped)*")
    return parts


def to_json(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as messages with roles, as chat APIs take them."""
    messages: list[dict[str, Any]] = []
    if conversation.system:
        messages.append({"role": "system", "content": conversation.system})
    for turn in conversation.turns:
        messages.append({"role": "user", "content": turn.question.content})
        if turn.answer is not None:
            answer: dict[str, Any] = {"role": "assistant", "content": turn.answer.content}
            if turn.answer.reasoning:
                answer["reasoning"] = turn.answer.reasoning
            messages.append(answer | {"finish_reason": turn.answer.finish_reason})
    model = conversation.model
    return {"version": SCHEMA_VERSION, "model": model.model if model else None, "messages": messages}
