"""What choosing an engine needs to know of a model, whether its files are on this disk or only in the catalogue."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmrun.models.types import ModelFormat, ModelInfo

if TYPE_CHECKING:
    from llmrun.models.catalogue import Family, Variant

__all__ = ["ModelFacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model, as the rules of selection see it.

    Attributes:
        format: How the weights are stored.
        architecture: `general.architecture` of a GGUF, the model type of a GGML file, or the class name in config.json
            of the other formats; None when it is not known.
        family: Catalogue family, or None.
        parameters: Number of weights, or None.
        quantization: None for unquantized weights; for the pytorch format, how to quantize while loading.
        weights_bytes: Size of the weights in memory, or None when it is not to be judged.
    """

    format: ModelFormat
    architecture: str | None = None
    family: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    weights_bytes: int | None = None

    @classmethod
    def from_info(cls, info: ModelInfo, *, quantization: str | None = None) -> "ModelFacts":
        """Return the facts of a model whose headers were read.

        Args:
            info: What the headers say.
            quantization: How to quantize a model of the pytorch format while loading. Its own type (`bf16`) is none.
        """
        stored = quantization if info.format is ModelFormat.PYTORCH else info.quantization
        return cls(
            format=info.format,
            architecture=info.architecture or None,
            family=info.family,
            parameters=info.parameters,
            quantization=stored,
            weights_bytes=info.tensor_bytes,
        )

    @classmethod
    def from_variant(cls, family: "Family", variant: "Variant", quantization: str | None) -> "ModelFacts":
        """Return the facts of a model that the catalogue knows; its size is estimated."""
        from llmrun.engines.variants import estimate_weights_bytes
        from llmrun.models.catalogue import Candidate

        chosen = None if quantization is None or quantization.lower() == "none" else quantization
        parameters = round(variant.parameters_billion * 1e9)
        return cls(
            format=variant.format,
            architecture=_architecture(family, variant),
            family=family.name,
            parameters=parameters,
            quantization=chosen,
            weights_bytes=estimate_weights_bytes(Candidate(variant, chosen, None)),
        )


def _architecture(family: "Family", variant: "Variant") -> str | None:
    if variant.format in (ModelFormat.GGUF, ModelFormat.GGML):
        return None  # the catalogue has class names, and these files have names of their own
    if variant.architectures:
        return variant.architectures[0]
    from llmrun.engines.architectures import architecture_of_family

    return architecture_of_family(family.name, variant.size_label)
