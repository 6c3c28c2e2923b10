"""A logits processor that gives sampling options the meaning that they have with llama.cpp.

vLLM calls it with the logits of all sequences of a step, before the temperature. For each sequence that asked for it:
what the grammar forbids is left out, the last 64 tokens are penalized, and what top-k, top-p and min-p cut off is left
out, in this order; a temperature that vLLM does not take comes last. Sequences with the same truncation are truncated
together. The first logits of every sequence are checked: damaged weights show there.

vLLM imports this module by name, in each process of several GPUs, so that it may import vLLM.

Source: llama_sampler_penalties_apply, llama_sampler_top_p_apply, llama_sampler_min_p_apply in llama.cpp.
"""

import importlib
import math
from typing import Any

from llmrun.engines.huggingface.grammar import Constraint, compile_constraint
from llmrun.engines.vllm.errors import NOT_FINITE

__all__ = ["SamplingProcessor"]

_PENALTY_WINDOW = 64
_interface: Any = importlib.import_module("vllm.v1.sample.logits_processor")
_torch: Any = importlib.import_module("torch")
_SWAP = _interface.MoveDirectionality.SWAP


class _Row:
    """What one sequence of the batch asked for; `outputs` is vLLM's own list, which grows."""

    def __init__(self, extra: dict[str, Any], prompt: list[int] | None, outputs: list[int]) -> None:
        self.extra = extra
        self.penalty = float(extra.get("repeat_penalty", 1.0))
        truncate = extra.get("truncate")
        self.temperature = float(extra.get("temperature", 1.0))
        self.truncate: tuple[int, float, float] | None = None if truncate is None else tuple(truncate)
        self.constraint: Constraint | None = None
        self.constrained = "folder" in extra
        self.checked = False
        self._recent = list(prompt or ())[-_PENALTY_WINDOW:]
        self._outputs = outputs
        self._accepted = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is left to be done for it."""
        plain = self.penalty == 1 and self.temperature == 1 and self.truncate is None
        return self.checked and plain and not self.constrained

    def prepare(self, logits: Any) -> None:
        """Do to its row what concerns no other.

        Raises:
            ValueError: The first logits are not finite.
        """
        if not self.checked:
            self.checked = True
            if not bool(_torch.isfinite(logits).all()):
                raise ValueError(NOT_FINITE)
        if self.constrained:
            self._constrain(logits)
        if self.penalty != 1:
            self._penalize(logits)

    def _constrain(self, logits: Any) -> None:
        if self.constraint is None:
            extra = self.extra
            compiled = compile_constraint(
                extra["folder"], logits.shape[-1], extra.get("json_schema"), extra.get("grammar")
            )
            self.constraint = Constraint(compiled)
        known = [token for token in self._outputs if token >= 0]
        self.constraint.accept(known[self._accepted :])
        self._accepted = len(known)
        self.constraint.apply(logits)

    def _penalize(self, logits: Any) -> None:
        recent = [token for token in (*self._recent, *self._outputs[-_PENALTY_WINDOW:]) if token >= 0]
        window = sorted(set(recent[-_PENALTY_WINDOW:]))
        if not window:
            return
        ids = _torch.tensor(window, device=logits.device)
        values = logits[ids]
        logits[ids] = _torch.where(values <= 0, values * self.penalty, values / self.penalty)


class SamplingProcessor(_interface.LogitsProcessor):  # type: ignore[misc]
    """See the module."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:  # noqa: ARG002 - vLLM's interface
        self._rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        """Penalties and grammars change what is likeliest."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the sequences that came, went and moved."""
        if batch_update is None:
            return
        rows = self._rows
        for index in batch_update.removed:
            rows.pop(index, None)
        for index, parameters, prompt, outputs in batch_update.added:
            extra = (parameters.extra_args or {}).get("llmrun") or {}
            rows[index] = _Row(extra, prompt, outputs)
        for source, target, direction in batch_update.moved:
            moved, replaced = rows.pop(source, None), rows.pop(target, None)
            if moved is not None:
                rows[target] = moved
            if direction == _SWAP and replaced is not None:
                rows[source] = replaced

    def apply(self, logits: Any) -> Any:
        """Change the logits of the sequences that asked for it."""
        working = [index for index, row in self._rows.items() if not row.idle and index < len(logits)]
        groups: dict[tuple[int, float, float], list[int]] = {}
        for index in working:
            row = self._rows[index]
            row.prepare(logits[index])
            if row.truncate is not None:
                groups.setdefault(row.truncate, []).append(index)
        for truncation, indices in groups.items():
            if len(indices) == len(logits):
                _truncate(logits, *truncation)
            else:
                part = logits[indices]
                _truncate(part, *truncation)
                logits[indices] = part
        for index in working:
            if self._rows[index].temperature != 1:
                logits[index] /= self._rows[index].temperature
        return logits


def _truncate(logits: Any, top_k: int, top_p: float, min_p: float) -> None:
    """Set what is cut off to -inf, in place; the likeliest token always stays."""
    if top_k <= 0 and top_p >= 1:
        floor = logits.amax(dim=-1, keepdim=True) + math.log(min_p)
        logits.masked_fill_(logits < floor, -math.inf)
        return
    size = logits.shape[-1]
    values, ids = _torch.topk(logits, min(top_k, size) if top_k > 0 else size, dim=-1)
    keep = _torch.ones_like(values, dtype=_torch.bool)
    if top_p < 1:
        probabilities = values.softmax(dim=-1)
        keep &= probabilities.cumsum(dim=-1) - probabilities < top_p
    if min_p > 0:
        keep &= values >= values[:, :1] + math.log(min_p)
    keep[:, 0] = True
    logits.fill_(-math.inf).scatter_(-1, ids, values.masked_fill_(~keep, -math.inf))
