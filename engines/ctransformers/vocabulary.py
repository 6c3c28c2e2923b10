"""Text to tokens and back for legacy files, whose vocabularies do not say which tokens are control tokens.

The library's tokenizer for llama never makes control tokens of text, the others make them wherever a text has them. So
both are done here: in `special` segments the texts of control tokens become those tokens, in all others they are taken
apart before the library sees them.
"""

import re
from collections.abc import Sequence

from llmrun.engines.ctransformers.library import Model
from llmrun.engines.types import Segment
from llmrun.errors import UsageError

__all__ = ["Vocabulary"]

_LLAMA_TEXTS = ("<s>", "</s>")
_OTHER_TEXTS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|padding|>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>", "<gh_stars>", "<issue_start>"),
    *("### Instruction:", "### Response:", "### End", ">>TITLE<<", ">>ABSTRACT<<", ">>INTRODUCTION<<", ">>SUMMARY<<"),
    *(">>COMMENT<<", ">>ANSWER<<", ">>QUESTION<<", ">>DOMAIN<<", ">>PREFIX<<", ">>SUFFIX<<", ">>MIDDLE<<"),
)
"""Source: the special tokens that the loaders of ctransformers 0.2.27 add for the types besides llama."""


class Vocabulary:
    """The vocabulary of a loaded model.

    Args:
        model: The model.
        kind: Its type.
    """

    def __init__(self, model: Model, kind: str) -> None:
        self._model = model
        self._is_llama = kind == "llama"
        self._control = self._find_control()
        texts = sorted({*_LLAMA_TEXTS, *_OTHER_TEXTS}, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(text) for text in texts))

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Turn segments into ids; llama models get their BOS token in front, once.

        Raises:
            UsageError: A text has a NUL, at which the library would stop reading.
        """
        tokens: list[int] = []
        for number, segment in enumerate(segments):
            if "\0" in segment.text:
                raise UsageError("the prompt has a NUL character, which ctransformers cannot read")
            text = segment.text
            if number == 0 and self._is_llama and not text.startswith((" ", *_LLAMA_TEXTS)):
                text = " " + text  # the models were trained with a space in front
            tokens += self._with_control(text) if segment.special else self._as_text(text)
        if self._is_llama and tokens[:1] != [self._model.bos]:
            tokens.insert(0, self._model.bos)
        return tokens

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for; none for a control token."""
        return b"" if token in self._control.values() else self._model.token_bytes(token)

    def token_text(self, token: int) -> str:
        """Return the text of one token by itself; U+FFFD stands for parts of characters."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return self._model.is_end(token)

    def _find_control(self) -> dict[str, int]:
        """Return the control tokens that can be written in a template, by their text."""
        if self._is_llama:
            return {"<s>": self._model.bos, "</s>": self._model.eos}
        found: dict[str, int] = {}
        for token in (self._model.bos, self._model.eos):  # gpt2's tokenizer does not make it of its text
            text = self._model.token_bytes(token).decode("utf-8", "replace")
            if text in _OTHER_TEXTS:
                found[text] = token
        for text in _OTHER_TEXTS:
            tokens = self._model.tokenize(text.encode())
            if len(tokens) == 1:
                found[text] = tokens[0]
        return found

    def _with_control(self, text: str) -> list[int]:
        tokens: list[int] = []
        place = 0
        for match in self._pattern.finditer(text):
            control = self._control.get(match[0])
            if control is not None:
                tokens += [*self._encode(text[place : match.start()]), control]
                place = match.end()
        return tokens + self._encode(text[place:])

    def _as_text(self, text: str) -> list[int]:
        """Encode so that nothing becomes a control token: what looks like one is cut behind its first character."""
        tokens: list[int] = []
        place = 0
        for match in self._pattern.finditer(text):
            tokens += self._encode(text[place : match.start() + 1])
            place = match.start() + 1
        return tokens + self._encode(text[place:])

    def _encode(self, text: str) -> list[int]:
        return self._model.tokenize(text.encode("utf-8", "replace")) if text else []
