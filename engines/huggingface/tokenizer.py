"""Text to tokens and back for Hugging Face folders, by the same rules as with llama.cpp.

Control tokens are recognised in `special` segments only, so that a user's text never becomes one; BOS comes first once
where the folder wants it; each segment is tokenized for itself; a token is turned into its bytes, because a character
may be spread over several. None of this can be had from `transformers`, whose tokenizers take text and return text, so
the library below it (`tokenizers`) is used directly. That also saves the seconds that importing `transformers` takes;
only folders with neither a `tokenizer.json` nor a `tokenizer.model` need it, to convert theirs.

What ends an answer is what the folder's settings say, and the control tokens that llama.cpp takes for the end of a turn
too: many folders name only one of theirs.

Source: the list of texts in llama_vocab::impl::load, src/llama-vocab.cpp of llama.cpp; bytes_to_unicode of GPT-2.
"""

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llmrun.engines.conversation.reasoning import MARKS
from llmrun.engines.huggingface.sentencepiece import open_sentencepiece
from llmrun.engines.types import Segment
from llmrun.errors import ModelFileError
from llmrun.models.huggingface.control_tokens import read_added_tokens
from llmrun.models.huggingface.folder import LocalFolder
from llmrun.models.huggingface.json import find_json
from llmrun.models.huggingface.sentencepiece import Algorithm, is_sentencepiece, read_sentencepiece
from llmrun.models.huggingface.tokenizer import Tokenizer, read_tokenizer

__all__ = ["HuggingFaceTokenizer"]

_END_TEXTS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
    *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<\uff5cend▁of▁sentence\uff5c>", "[e~["),
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>"),
    *("<REPO>", "<reponame>", "<|file_sep|>"),
    "<eoa>",  # InternLM's, which only its own code knew
)
_END_OF_PART, _ENDS_OF_CHANNELS = "<|end|>", ({"<|return|>", "<|call|>"}, {"<|flush|>", "<|calls|>"})
"""In vocabularies with either pair (gpt-oss, Solar Open) `<|end|>` ends the reasoning, and not the answer. Source: the
list of ends in llama-vocab.cpp of llama.cpp."""
_SPACE = "▁"


class HuggingFaceTokenizer:
    """The tokenizer of one folder.

    Args:
        folder: Where `tokenizer.json`, or the files of an older kind of tokenizer, are.

    Attributes:
        backend: The `tokenizers.Tokenizer` below.
        size: Number of tokens, those without an embedding included.
        bos: Id of the BOS token, or None.
        ends: Ids that end an answer.

    Raises:
        ModelFileError: There is no tokenizer, or it cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        source = LocalFolder(Path(folder))
        settings = find_json(source, "config.json") or {}
        text_settings = settings.get("text_config")
        told = read_tokenizer(source, settings, text_settings if isinstance(text_settings, dict) else settings)
        self._control = frozenset(read_added_tokens(source)[0])
        self.backend: Any = _open(source)
        self.size = int(self.backend.get_vocab_size(with_added_tokens=True))
        self._bytes: dict[int, bytes] = {}
        self.bos = self._find_id(told.special_tokens.bos, told.special_tokens.bos_id)
        self._adds_bos = self.bos is not None and self._wants_bos(told)
        self.ends = self._find_ends(source, settings, told)

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Turn segments into ids; BOS comes first once, if the folder wants one."""
        tokens: list[int] = []
        for segment in segments:
            text = segment.text.encode("utf-8", "replace").decode("utf-8")
            self.backend.encode_special_tokens = not segment.special
            tokens += self.backend.encode(text, add_special_tokens=False).ids
        if self._adds_bos and self.bos is not None and tokens[:1] != [self.bos]:
            tokens.insert(0, self.bos)
        return tokens

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for; none for an id without a token.

        Nor for a control token, unless it marks what a model thinks.
        """
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._find_bytes(token)
        return found

    def token_text(self, token: int) -> str:
        """Return the text of one token by itself; U+FFFD stands for parts of characters."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return token in self.ends

    def _find_id(self, text: str | None, number: int | None) -> int | None:
        found = None if text is None else self.backend.token_to_id(text)
        return number if found is None else int(found)

    def _wants_bos(self, told: Tokenizer) -> bool:
        """What the settings say, or else what the vocabulary's own post-processor does."""
        if told.special_tokens.add_bos is not None:
            return told.special_tokens.add_bos
        with_bos = self.backend.encode("a", add_special_tokens=True).ids
        return bool(with_bos[:1] == [self.bos])

    def _find_ends(self, source: LocalFolder, settings: Mapping[str, Any], told: Tokenizer) -> frozenset[int]:
        ends: set[int] = set()
        for values in (settings, find_json(source, "generation_config.json") or {}):
            value = values.get("eos_token_id")
            ends |= {each for each in (value if isinstance(value, list) else [value]) if type(each) is int}
        named = [text for text in (told.special_tokens.eos, *_END_TEXTS) if text]
        found = {text: number for text in named if (number := self.backend.token_to_id(text)) is not None}
        if any(found.keys() >= marks for marks in _ENDS_OF_CHANNELS):
            found.pop(_END_OF_PART, None)
        return frozenset(ends | {*found.values()})

    @cached_property
    def _added(self) -> dict[int, Any]:
        return dict(self.backend.get_added_tokens_decoder())

    @cached_property
    def _from_piece(self) -> Callable[[str], bytes]:
        """Return how the text that stands for a token in the vocabulary becomes its bytes."""
        decoder = self.backend.decoder
        kinds = set() if decoder is None else _kinds(json.loads(decoder.__getstate__()))
        if "ByteLevel" in kinds:
            return _from_byte_level
        if "ByteFallback" in kinds or "Metaspace" in kinds or "Replace" in kinds:
            return _from_sentencepiece
        if decoder is None:
            return str.encode
        return lambda piece: _decode_pair(decoder, piece)

    def _find_bytes(self, token: int) -> bytes:
        added = self._added.get(token)
        if added is not None:
            text = str(added.content)
            is_control = added.special or text in self._control
            return b"" if is_control and text not in MARKS else text.encode()
        piece = self.backend.id_to_token(token)
        if piece is None or (piece in self._control and piece not in MARKS):
            return b""
        return piece.encode() if piece in self._control else self._from_piece(piece)


def _open(source: LocalFolder) -> Any:
    """Return the tokenizer of the library below, with every control token marked as one."""
    tokenizers: Any = importlib.import_module("tokenizers")
    if "tokenizer.json" in source.sizes:
        try:
            backend = tokenizers.Tokenizer.from_file(str(source.path / "tokenizer.json"))
        except Exception as error:
            raise _refused(source, error) from error
    else:
        backend = _convert(source)
    backend.no_truncation()
    backend.no_padding()
    control = frozenset(read_added_tokens(source)[0])
    plain = [row.content for row in backend.get_added_tokens_decoder().values() if not row.special]
    return _mark_special(tokenizers, backend, control) if control & set(plain) else backend


def _mark_special(tokenizers: Any, backend: Any, control: frozenset[str]) -> Any:
    """Mark tokens that the settings name as control tokens, and the vocabulary does not."""
    content = json.loads(backend.to_str())
    for row in content["added_tokens"]:
        row["special"] = row["special"] or row["content"] in control
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _convert(source: LocalFolder) -> Any:
    """Convert an older kind of tokenizer, as transformers does; SentencePiece's own files need no transformers."""
    vocabulary = read_sentencepiece(source) if is_sentencepiece(source) else None
    if vocabulary is not None and vocabulary.algorithm == Algorithm.BPE:
        return open_sentencepiece(vocabulary, frozenset(read_added_tokens(source)[0]))
    transformers: Any = importlib.import_module("transformers")
    try:
        found = transformers.AutoTokenizer.from_pretrained(
            str(source.path), local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except Exception as error:
        raise _refused(source, error) from error
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise ModelFileError(
            f"{source.path} has a tokenizer of a kind that cannot be converted: {type(found).__name__}",
            fix="a copy of the model with a tokenizer.json",
        )
    return backend


def _refused(source: LocalFolder, error: Exception) -> ModelFileError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelFileError(f"the tokenizer of {source.path} cannot be read: {lines[0][:300]}", fix="download it again")


def _kinds(value: Any) -> set[str]:
    """Return the types of a decoder and of the decoders in it."""
    if not isinstance(value, dict):
        return set()
    kinds = {str(value.get("type"))}
    for inner in value.get("decoders") or ():
        kinds |= _kinds(inner)
    return kinds


def _byte_level_table() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    return table | {chr(0x100 + number): byte for number, byte in enumerate(others)}


_BYTES = _byte_level_table()


def _from_byte_level(piece: str) -> bytes:
    if all(character in _BYTES for character in piece):
        return bytes(_BYTES[character] for character in piece)
    return piece.encode()


def _from_sentencepiece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            pass
    return piece.replace(_SPACE, " ").encode()


def _decode_pair(decoder: Any, piece: str) -> bytes:
    """Decode by an unknown rule, after another token, so that a space between words is not lost."""
    before = decoder.decode(["a"])
    text = decoder.decode(["a", piece])
    return str(text[len(before) :]).encode()
