"""Make the safetensors twin of a GGUF file: the same model as a folder that transformers and vLLM read.

Usage: python tests/tools/make_twin.py MODEL.gguf

Prints the folder, which is kept in llmrun's cache (LLMRUN_CACHE_DIR) under a name made of the file's hash and of the
version of this program; a folder that is there is complete. The weights are unpacked to bfloat16. The tokenizer is what
transformers makes of the vocabulary in the header, with the pre-tokenizer that the header names, which transformers
leaves out: without it some numerals get other tokens than in llama.cpp.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from llmrun.folders import cache_folder

VERSION = 1
# Source: LLAMA_VOCAB_PRE_TYPE_SMOLLM in src/llama-vocab.cpp of llama.cpp, which is GPT-2's expression after one that
# makes every numeral a word.
_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {"smollm": [{"type": "Digits", "individual_digits": True}]}


def main(arguments: list[str]) -> int:
    """Print the path of the twin, after making it if it is not there."""
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print("usage: make_twin.py MODEL.gguf", file=sys.stderr)
        return 2
    source = Path(arguments[0])
    with source.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = cache_folder("twins") / f"{digest[:16]}-v{VERSION}"
    if not target.is_dir():
        with contextlib.redirect_stdout(sys.stderr):  # the path alone goes to standard output
            _make(source, target)
    print(target)
    return 0


def _make(source: Path, target: Path) -> None:
    """Write the folder under another name, then rename it: what has the right name is whole."""
    folder = Path(tempfile.mkdtemp(prefix=".twin-", dir=target.parent))
    try:
        _write(source, folder)
        for path in folder.iterdir():
            path.chmod(0o600)
        folder.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(source: Path, folder: Path) -> None:
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }
    import gguf
    import torch
    import transformers

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name, "local_files_only": True}
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        **place, dtype=torch.bfloat16, quantization_config=transformers.GgufConfig(dequantize=True)
    )
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(**place)
    model.config._name_or_path = ""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)
    field = gguf.GGUFReader(source).get_field("tokenizer.ggml.pre")
    _set_pre_tokenizer(folder / "tokenizer.json", "" if field is None else field.contents())


def _set_pre_tokenizer(path: Path, name: str) -> None:
    """Have words cut as the GGUF's header says."""
    content = json.loads(path.read_text(encoding="utf-8"))
    first = _PRE_TOKENIZERS.get(name, [])
    if first:
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*first, content["pre_tokenizer"]]}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
