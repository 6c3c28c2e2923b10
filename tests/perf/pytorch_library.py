"""What transformers alone does with a folder: `model.generate`, called as its documentation says.

Usage: python pytorch_library.py FOLDER THREADS DTYPE [first]

With `first`: prints the first token's text as soon as it is there, and ends. Without: for every line `decode TOKENS` on
standard input, prints the decode rate in tokens per second, the same way as llmrun counts it.
"""

import os
import sys
import time

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import torch
import transformers
from texts import QUESTION, starting_text

folder, threads, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(threads)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
model.eval()


class Clock(transformers.StoppingCriteria):  # type: ignore[misc]
    """Notes when each token was there, and stops nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def generate(ids: torch.Tensor, tokens: int) -> tuple[torch.Tensor, list[float]]:
    """Return the tokens with the prompt, and when each was there."""
    clock = Clock()
    with torch.inference_mode():
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            stopping_criteria=transformers.StoppingCriteriaList([clock]),
        )
    return made[0], clock.times


if sys.argv[4:] == ["first"]:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    made, _ = generate(prompt, 1)
    print(tokenizer.decode(made[-1:]), flush=True)
    os._exit(0)
for number, line in enumerate(sys.stdin):
    prompt = tokenizer(starting_text(number), return_tensors="pt")["input_ids"]
    _, times = generate(prompt, int(line.split()[1]))
    print((len(times) - 1) / (times[-1] - times[0]), flush=True)
