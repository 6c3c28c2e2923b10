"""Train the tiny models in tests/data: `python tests/tools/train_tiny.py tests/data [NAME…]` (a minute on two cores).

They know a few dozen capitals by heart, so that greedy text is stable and can be recognised, and are small enough to
ship: one of LLaMA's architecture with a vocabulary of characters, a GPT-2 and a GPT-NeoX with a vocabulary of bytes.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Cuba": "Havana",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Iran": "Tehran",
    "Poland": "Warsaw",
    "Chile": "Santiago",
    "Ghana": "Accra",
    "Qatar": "Doha",
    "Latvia": "Riga",
    "Malta": "Valletta",
    "Nepal": "Kathmandu",
    "Serbia": "Belgrade",
    "Sweden": "Stockholm",
    "Tunisia": "Tunis",
    "Ukraine": "Kyiv",
}
LINES = [f"Question: What is the capital of {country}?\nAnswer: {city}." for country, city in CAPITALS.items()]
STEPS, LENGTH = 700, 72


def character_tokenizer() -> Tokenizer:
    """Return a vocabulary as SentencePiece writes them: control tokens, bytes, then characters."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(0x21, 0x7F))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    replace, strip = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([replace, decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def byte_tokenizer() -> Tokenizer:
    """Return a vocabulary as GPT-2 has it: one character for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def train(model: Any, rows: list[list[int]]) -> float:
    """Fit the model to the rows; return the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    batch = torch.full((len(rows), LENGTH), 0)
    labels = torch.full((len(rows), LENGTH), -100)
    for number, row in enumerate(rows):
        batch[number, : len(row)] = torch.tensor(row)
        labels[number, : len(row)] = torch.tensor(row)
    for _ in range(STEPS):
        loss = model(input_ids=batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return float(loss)


def save(model: Any, tokenizer: Tokenizer, folder: Path, settings: dict[str, Any]) -> None:
    """Write a Hugging Face folder."""
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def make_llama(folder: Path) -> float:
    tokenizer = character_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        rms_norm_eps=5e-6,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config)
    loss = train(model, [[1, *tokenizer.encode(line, add_special_tokens=False).ids, 2] for line in LINES])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    save(model, tokenizer, folder, {**settings, "unk_token": "<unk>", "add_bos_token": True})
    return loss


def make_gpt2(folder: Path) -> float:
    tokenizer = byte_tokenizer()
    end = tokenizer.get_vocab()["<|endoftext|>"]
    config = transformers.GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=256,
        bos_token_id=end,
        eos_token_id=end,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = transformers.GPT2LMHeadModel(config)
    loss = train(model, [[*tokenizer.encode(line, add_special_tokens=False).ids, end] for line in LINES])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "add_bos_token": False}
    save(model, tokenizer, folder, {**settings, "bos_token": "<|endoftext|>"})
    return loss


def make_gpt_neox(folder: Path) -> float:
    tokenizer = byte_tokenizer()
    end = tokenizer.get_vocab()["<|endoftext|>"]
    config = transformers.GPTNeoXConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        rotary_pct=1.0,
        max_position_embeddings=256,
        hidden_act="gelu_new",  # what ggml computes for every gelu
        bos_token_id=end,
        eos_token_id=end,
        tie_word_embeddings=False,
    )
    model = transformers.GPTNeoXForCausalLM(config)
    loss = train(model, [[*tokenizer.encode(line, add_special_tokens=False).ids, end] for line in LINES])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "add_bos_token": False}
    save(model, tokenizer, folder, {**settings, "bos_token": "<|endoftext|>"})
    return loss


MAKERS = {"llama": make_llama, "gpt2": make_gpt2, "gpt_neox": make_gpt_neox}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for name in sys.argv[2:] or MAKERS:
        torch.manual_seed(0)
        print(name, MAKERS[name](target / f"tiny-{name.replace('_', '-')}"))
