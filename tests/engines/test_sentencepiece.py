"""Vocabularies in SentencePiece's own format give the ids that SentencePiece gives; control tokens stay out of text."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.huggingface.tokenizer import HuggingFaceTokenizer
from llmrun.engines.types import Segment
from llmrun.errors import ModelFileError
from llmrun.models.huggingface.control_tokens import read_added_tokens
from llmrun.models.huggingface.folder import LocalFolder

pytestmark = pytest.mark.pytorch
CORPUS = [
    *("the sky is blue because light is scattered", "def add(a, b):", "    return a + b", "one, two, three; 1234 5678"),
    *(
        "日本語のテキストです",
        "百川智能是一家公司",
        "привет мир",
        "مرحبا بالعالم",
        "naïve café déjà vu",
        "x = {'a': [1, 2]}",
    ),
] * 12
TEXTS = [
    *(
        "hello world",
        "  two  spaces   three ",
        "12345 67",
        "日本語テキスト 😀👩‍👩‍👧",
        "\tx = 1\n\n    return y",
        "",
        "  ",
    ),
    *("é e\u0301 ﬁ", " lead", "trail ", "\u2581real", "x" * 200, "nul\x00l", "a\r\nb", "<|User|>:hi"),
]
MARKED = ["<eoh>\n<|Bot|>:hi", "a<eoh> b", "<eoh>", "<eoh><eoa> "]
RESERVED = ("<unk>", "<s>", "</s>")


@pytest.fixture(scope="module", params=[True, False], ids=["space in front", "none in front"])
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder as InternLM and Baichuan publish it, and SentencePiece's own reader of the same file."""
    sentencepiece: Any = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("model")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=420,
        hard_vocab_limit=False,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=request.param,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<eoh>", "<eoa>"],
        minloglevel=2,
    )
    (folder / "config.json").write_text(json.dumps({"architectures": ["InternLMForCausalLM"], "bos_token_id": 1}))
    settings = {"tokenizer_class": "InternLMTokenizer", "auto_map": {"AutoTokenizer": ["tokenization.Own", None]}}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder, sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_texts_get_the_ids_of_sentencepiece(vocabulary: Any) -> None:
    folder, reference = vocabulary
    tokenizer = HuggingFaceTokenizer(folder)
    for text in TEXTS:
        for special in (True, False):
            found = tokenizer.tokenize([Segment(text=text, special=special)])
            assert found == [tokenizer.bos, *reference.encode(text)], text


def test_templates_get_the_ids_of_sentencepiece(vocabulary: Any) -> None:
    """Marks of turns are pieces of their own, with no space put behind them."""
    folder, reference = vocabulary
    tokenizer = HuggingFaceTokenizer(folder)
    for text in MARKED:
        assert tokenizer.tokenize([Segment(text=text, special=True)]) == [tokenizer.bos, *reference.encode(text)]


@pytest.mark.parametrize("text", ["<eoh>", "</s>", "a <s> b", "<eoa>!"])
def test_control_tokens_in_a_text_stay_text(vocabulary: Any, text: str) -> None:
    folder, reference = vocabulary
    tokenizer = HuggingFaceTokenizer(folder)
    control = {reference.piece_to_id(name) for name in (*RESERVED, "<eoh>", "<eoa>")}
    found = tokenizer.tokenize([Segment(text=text, special=False)])[1:]
    assert not control & set(found)
    assert b"".join(tokenizer.token_bytes(token) for token in found).decode().strip() == text
    assert control & set(tokenizer.tokenize([Segment(text=text, special=True)])[1:])


def test_prompts_know_the_marks(vocabulary: Any) -> None:
    folder, _ = vocabulary
    assert {"<eoh>", "<eoa>", "<s>", "</s>"} <= set(read_added_tokens(LocalFolder(folder))[0])


def test_answers_end_where_the_family_ends_them(vocabulary: Any) -> None:
    folder, reference = vocabulary
    tokenizer = HuggingFaceTokenizer(folder)
    assert tokenizer.is_end(reference.piece_to_id("<eoa>"))
    assert tokenizer.is_end(reference.piece_to_id("</s>"))
    assert not tokenizer.is_end(reference.piece_to_id("<eoh>"))


def test_settings_decide_on_bos(vocabulary: Any, tmp_path: Path) -> None:
    folder, reference = vocabulary
    for name in ("tokenizer.model", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = HuggingFaceTokenizer(tmp_path).tokenize([Segment(text="hello", special=False)])
    assert found == reference.encode("hello")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2 + 1], id="cut short"),
        pytest.param(lambda data: b"\n\xff\xff\xff\xff\x7f" + data, id="a length beyond the file"),
        pytest.param(lambda data: b"\n" + b"\xff" * 40, id="a number without an end"),
        pytest.param(lambda data: b"\n", id="nothing but a key"),
        pytest.param(lambda data: b"\n\x04\n\x02\xff\xfe" + data, id="a piece that is no text"),
    ],
)
def test_damaged_files_are_refused(vocabulary: Any, tmp_path: Path, damage: Any) -> None:
    folder, _ = vocabulary
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.model").write_bytes(damage((folder / "tokenizer.model").read_bytes()))
    with pytest.raises(ModelFileError, match=r"tokenizer\.model"):
        HuggingFaceTokenizer(tmp_path)
