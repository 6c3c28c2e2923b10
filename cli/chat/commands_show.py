"""The commands that only show something, and /set: /show, /context, /stats, /sessions. All of it on standard error."""

from llmrun.cli.chat.fitting import count_messages
from llmrun.cli.chat.listing import list_text
from llmrun.cli.chat.settings import changed, describe_settings
from llmrun.cli.chat.state import Chat, count_turns
from llmrun.engines.conversation.sessions import list_sessions
from llmrun.engines.conversation.window import answer_room
from llmrun.errors import UsageError

__all__ = ["SHOW_PARTS", "context", "sessions", "set_option", "show", "stats"]

SHOW_PARTS = ("prompt", "system", "options", "model")
_LISTED = 15


def set_option(chat: Chat, text: str) -> None:
    """Show the options, or change one."""
    if not text:
        chat.view.notice("options\n" + describe_settings(chat.settings))
        return
    name, _, value = text.partition(" ")
    if not value.strip():
        raise UsageError(f"/set {name} wants a value", fix=f"/set {name} VALUE; /set alone shows what is set")
    before = chat.settings
    chat.settings = changed(before, name, value.strip())
    if chat.settings.think != before.think:
        chat.view = chat.make_view(chat.settings.think)
    chat.view.notice(f"{name} is {value.strip()} from the next answer on")


def show(chat: Chat, text: str) -> None:
    """Show what the model sees, or what is set."""
    match text or "prompt":
        case "prompt":
            if not chat.conversation.turns:
                raise UsageError("nothing was said yet")
            chat.view.notice("what the model sees\n" + chat.render(chat.conversation.messages()).text)
        case "system":
            chat.view.notice(f"system message: {chat.conversation.system or 'none'}")
        case "options":
            chat.view.notice("options\n" + describe_settings(chat.settings))
        case "model":
            chat.view.notice("model\n" + _describe_model(chat))
        case _:
            raise UsageError(f"/show has no part {text!r}", fix=f"one of {', '.join(SHOW_PARTS)}")


def _describe_model(chat: Chat) -> str:
    prepared, info = chat.model.prepared, chat.model.prepared.info
    rows = {
        "model": chat.model.request.model,
        "file": str(prepared.model.path),
        "architecture": info.architecture,
        "quantization": info.quantization or "unknown",
        "engine": f"{chat.model.engine}: {prepared.selection.because}",
        "context": f"{chat.model.context_length:,} tokens",
        "threads": str(prepared.plan.threads),
    }
    return "\n".join(f"  {name:<12}  {value}" for name, value in rows.items())


def context(chat: Chat, _text: str) -> None:
    """Show what fills the context."""
    chat.model.wait(chat.interrupt)
    conversation, length = chat.conversation, chat.model.context_length
    room = answer_room(length, chat.settings.sampling.max_tokens)
    kept = len(conversation.turns) - conversation.left_out
    used = count_messages(chat, conversation.messages()) if kept else 0
    lines = [
        f"{used:,} of {length:,} tokens in use ({used / length:.0%}), by {count_turns(kept)}",
        f"  {room:,} are kept for the next answer; when they are not there: {chat.settings.overflow}",
    ]
    if conversation.left_out:
        summary = " (the model has a summary of them)" if conversation.summary else ""
        lines.append(f"  {conversation.left_out:,} oldest turns are left out{summary}; they are still in the session")
    chat.view.notice("\n".join(lines))


def stats(chat: Chat, _text: str) -> None:
    """Show counts and speeds."""
    turns = chat.conversation.turns
    answers = [turn.answer for turn in turns if turn.answer is not None]
    written = sum(answer.completion_tokens or 0 for answer in answers)
    lines = [f"{count_turns(len(turns))}, {written:,} tokens answered; session {chat.session.path.stem}"]
    if chat.last_stats is not None:
        last, first_seconds = chat.last_stats
        processed = last.prompt_tokens - last.cached_tokens
        lines += [
            f"  last answer: {last.completion_tokens:,} tokens in {last.decode_seconds:.2f} s, "
            f"the first after {first_seconds:.2f} s",
            f"  its prompt: {last.prompt_tokens:,} tokens, {last.cached_tokens:,} of them in the KV cache; "
            f"{processed:,} processed in {last.prefill_seconds:.2f} s",
        ]
        if last.drafted_tokens:
            lines.append(f"  guessed ahead: {last.drafted_tokens:,} tokens, {last.accepted_tokens:,} of them right")
    steps = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in chat.model.worker.phases.items())
    lines.append(f"  start: {steps or 'not over yet'}")
    chat.view.notice("\n".join(lines))


def sessions(chat: Chat, _text: str) -> None:
    """List the sessions."""
    found = list_sessions()
    more = f"\n  and {len(found) - _LISTED:,} more: llmrun chat --list" if len(found) > _LISTED else ""
    chat.view.notice("sessions\n" + (list_text(found[:_LISTED]).rstrip("\n") or "  none yet") + more)
