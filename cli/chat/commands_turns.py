"""The commands that change what was said: /system, /clear, /undo, /retry, /edit. In the file, nothing is taken away."""

from llmrun.cli.chat.answer import answer_newest, take_turn
from llmrun.cli.chat.editor import edit_text
from llmrun.cli.chat.state import Chat, count_turns, shortened
from llmrun.engines.conversation.conversation import Turn
from llmrun.errors import UsageError

__all__ = ["clear", "edit", "retry", "system", "undo"]


def system(chat: Chat, text: str) -> None:
    """Show the system message, change it, or take it away."""
    if not text:
        chat.view.notice(f"system message: {chat.conversation.system or 'none'}")
        return
    chat.set_system("" if text == "none" else text)
    chat.view.notice("no system message from the next answer on" if text == "none" else "from the next answer on")


def clear(chat: Chat, _text: str) -> None:
    """Forget every turn."""
    turns = chat.conversation.turns
    chat.attachments.clear()
    if turns:
        chat.rewind(sum(turn.messages for turn in turns), "clear")
    chat.view.notice(
        f"a new conversation; of the one before, {count_turns(len(turns))} stay in {chat.session.path}"
        if turns
        else "nothing was said yet"
    )


def undo(chat: Chat, _text: str) -> None:
    """Take the last turn back."""
    turns = _turns(chat)
    chat.rewind(turns[-1].messages, "undo")
    chat.view.notice(f"taken back: {shortened(turns[-1].question.content)}")


def retry(chat: Chat, _text: str) -> None:
    """Have the last turn answered again."""
    turns = _turns(chat)
    if turns[-1].answer is not None:
        chat.rewind(1, "retry")
        chat.retries += 1
    answer_newest(chat)


def edit(chat: Chat, text: str) -> None:
    """Change a turn, and go on from there."""
    turns = _turns(chat)
    try:
        number = int(text) if text else len(turns)
    except ValueError:
        raise UsageError(f"/edit wants the number of a turn, and not {text!r}") from None
    if not 1 <= number <= len(turns):
        raise UsageError(f"there are turns 1 to {len(turns):,}, and no turn {number:,}")
    before = turns[number - 1].question.content
    after = edit_text(before).strip("\n")
    if not after.strip() or after == before:
        chat.view.notice("nothing was changed")
        return
    chat.rewind(sum(turn.messages for turn in turns[number - 1 :]), "edit")
    take_turn(chat, after)


def _turns(chat: Chat) -> tuple[Turn, ...]:
    turns = chat.conversation.turns
    if not turns:
        raise UsageError("nothing was said yet")
    return turns
