"""Keeps text from users and files from becoming control tokens, without changing the tokens of any other prompt.

A template mixes scaffolding, where `<|im_end|>` must become one control token, with content, where it must stay text;
afterwards nobody can tell which is which. So before rendering, a mark (a Unicode noncharacter, which no text has) is
put inside every control token that occurs in content: after its first character, so that it is none any more. Where no
mark comes out of the template, the prompt is one piece, tokenized exactly as it would be without any of this. Where
one does, the prompt is cut at its true control tokens, as tokenizers do themselves, and the stretches with marks are
handed on (without them) as text in which no control token is looked for.

A template could still put a control token together from harmless pieces of content (two messages side by side, a
`replace`). So when content has anything that could be a piece, the template is rendered once more with the pieces
blanked out, and must come to the same control tokens.
"""

from collections.abc import Iterable, Sequence

from llmrun.errors import SecurityError
from llmrun.models.types import Segment

__all__ = ["ContentGuard", "ControlTokens"]

# Control tokens in llama.cpp whatever the file says of their type. Source: llama_vocab::impl::load, llama-vocab.cpp.
_ALWAYS_CONTROL = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
    *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),  # noqa: RUF001
)
# Tokens that llama.cpp recognises even where it is told to look for none. Source: as above ("quick hack for gpt-oss").
_ALWAYS_PARSED = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")

_NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))


class ControlTokens:
    """The texts of tokens that steer a model, arranged so that text with none of them is passed over quickly."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._by_start: dict[str, list[str]] = {}
        self._by_second: dict[str, list[str]] = {}
        # A token of one character cannot be told from the character.
        for token in dict.fromkeys(tokens):
            if len(token) > 1:
                self._by_start.setdefault(token[:2], []).append(token)
                self._by_second.setdefault(token[1:3], []).append(token[1:])

    def found_in(self, text: str) -> list[str]:
        """Return the tokens that occur in a text, longest first."""
        found = [
            token for start, tokens in self._by_start.items() if start in text for token in tokens if token in text
        ]
        return sorted(found, key=lambda token: (-len(token), token))

    def pieces_in(self, text: str) -> list[str]:
        """Return what in a text could become part of a token: whole ones, all but the first character, beginnings."""
        tails = [tail for second, tails in self._by_second.items() if second in text for tail in tails if tail in text]
        starts = [start for start in self._by_start if start in text]
        return sorted([*self.found_in(text), *tails, *starts], key=lambda piece: (-len(piece), piece))

    def split(self, text: str) -> list[tuple[str, bool]]:
        """Cut a text at its tokens, longest first as tokenizers do; return the parts and whether each is a token."""
        parts = [(text, False)]
        for token in self.found_in(text):
            parts = [piece for part in parts for piece in _cut(part, token)]
        return parts


def _cut(part: tuple[str, bool], token: str) -> list[tuple[str, bool]]:
    text, is_token = part
    if is_token or token not in text:
        return [part]
    cut: list[tuple[str, bool]] = []
    for index, piece in enumerate(text.split(token)):
        if index:
            cut.append((token, True))
        if piece:
            cut.append((piece, False))
    return cut


class ContentGuard:
    """Marks the content of one prompt, and reads the marks in what a template made of it.

    Args:
        control_tokens: Texts of the model's control tokens.
        always_parsed: Texts of tokens that steer this model and that its engine recognises even in plain text.
        texts: Everything that goes into the prompt, so that marks can be chosen that are in none of it.

    Raises:
        SecurityError: The texts use up every character that could be a mark.
    """

    def __init__(self, control_tokens: Iterable[str], always_parsed: Iterable[str], texts: Sequence[str]) -> None:
        self._parsed = ControlTokens((*always_parsed, *_ALWAYS_PARSED))
        self._tokens = ControlTokens((*control_tokens, *_ALWAYS_CONTROL, *always_parsed, *_ALWAYS_PARSED))
        free = [mark for mark in _NONCHARACTERS if not any(mark in text for text in texts)]
        if len(free) < 2:
            raise SecurityError("the prompt contains every Unicode noncharacter: it is no text")
        self._mark, self._cut_mark = free[:2]

    def mark(self, content: str) -> str:
        """Return content in which no control token is left whole."""
        for token in self._tokens.found_in(content):
            mark = self._cut_mark if self._parsed.found_in(token) else self._mark
            while token in content:
                content = content.replace(token, token[0] + mark + token[1:])
        return content

    def has_pieces(self, content: str) -> bool:
        """Say whether anything in the content could be, or become, a control token."""
        return bool(self._tokens.pieces_in(content))

    def blank(self, content: str) -> str:
        """Return harmless content of the same shape."""
        for piece in self._tokens.pieces_in(content):
            content = content.replace(piece, "x" * len(piece))
        return content

    def control_tokens_of(self, rendered: str) -> list[str]:
        """Return the control tokens of a rendered prompt, in order."""
        return [text for text, is_token in self._tokens.split(rendered) if is_token]

    def clean(self, rendered: str) -> str:
        """Return the text without marks."""
        return rendered.replace(self._mark, "").replace(self._cut_mark, "")

    def segments(self, rendered: str) -> tuple[Segment, ...]:
        """Return a rendered prompt as segments; one special segment if it has no marks."""
        if self._mark not in rendered and self._cut_mark not in rendered:
            return (Segment(text=rendered, special=True),) if rendered else ()
        segments: list[Segment] = []
        special = ""
        for text, is_token in self._tokens.split(rendered):
            if is_token or (self._mark not in text and self._cut_mark not in text):
                special += text
                continue
            if special:
                segments.append(Segment(text=special, special=True))
                special = ""
            # Cut where even plain text would be recognised as a token: engines tokenize segments one by one.
            pieces = text.replace(self._mark, "").split(self._cut_mark)
            segments.extend(Segment(text=piece, special=False) for piece in pieces if piece)
        if special:
            segments.append(Segment(text=special, special=True))
        return tuple(segments)
