"""The prompts that `make perf` measures with. Numbers in front make every one new, so that no cache helps unasked."""

__all__ = ["FREE", "QUESTION", "REPEATING", "long_text", "questions", "starting_text"]

QUESTION = "Why is the sky blue? Explain it to a child."
_SENTENCE = "The quick brown fox jumps over the lazy dog. "  # 10 tokens in SmolLM2's vocabulary
_SUBJECTS = (
    "the moon",
    "a bicycle",
    "bread",
    "rain",
    "a library",
    "the heart",
    "glass",
    "an island",
    "music",
    "a clock",
    "salt",
    "a forest",
    "paper",
    "a bridge",
    "snow",
    "a telescope",
)


def starting_text(index: int) -> str:
    """Return a short text that a model goes on with for ever."""
    return f"{index} " + _SENTENCE * 2


def long_text(index: int, tokens: int) -> str:
    """Return a text of about so many tokens."""
    return f"{index} " + _SENTENCE * round(tokens / 10)


def questions(count: int) -> list[str]:
    """Return that many short prompts of different text."""
    return [f"Here is a long story about {_SUBJECTS[index % len(_SUBJECTS)]}. Once" for index in range(count)]


_FUNCTION = '''def load_settings(path, defaults):
    """Read the settings file and fill in what is missing."""
    with open(path) as file:
        settings = json.load(file)
    for name, value in defaults.items():
        settings.setdefault(name, value)
    if settings["retries"] < 0:
        raise ValueError("retries must not be negative")
    settings["path"] = os.path.abspath(path)
    return settings
'''
_MINUTES = (
    "The committee met on Tuesday, 14 March, at nine in the morning. Present were Mrs. Adler, Mr. Okafor, Dr. "
    "Lindqvist and the secretary, Ms. Tran. The minutes of the last meeting were read and accepted without "
    "changes. Mr. Okafor reported that the roof of the east wing had been repaired for 12,400 euros, which is 600"
    " euros less than was planned. Dr. Lindqvist asked for a second microscope; the committee agreed. The next "
    "meeting is on 11 April at the same time."
)
_TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"

REPEATING = {
    "extraction": _TURN.format(f"Copy the following text word by word:\n{_MINUTES}"),
    "code edit": _TURN.format(f"Write this function again, with the name read_settings:\n```python\n{_FUNCTION}```")
    + "```python\n",
}
"""Prompts whose answers repeat much of them. The marks are those of SmolLM2 and of many others (ChatML)."""

FREE = (
    _TURN.format("Tell me a long story about a lighthouse keeper and her brother."),
    _TURN.format("What should one think of before moving to another country? Be detailed."),
)
"""Prompts whose answers repeat nothing."""
