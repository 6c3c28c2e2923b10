"""What choosing an engine needs to know of a model, whether its files are on this disk or only in the catalogue."""

from typing import TYPE_CHECKING

from llmrun.models.types import ModelFormat, ModelInfo
from llmrun.values import value

if TYPE_CHECKING:
    from llmrun.models.catalogue import Family, Variant

__all__ = ["ModelFacts", "approximate_info"]


@value
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
        remote_code: Whether the model brings code of its own along, or None when that is not known.
        trusted: The user wants such code to be run.
    """

    format: ModelFormat
    architecture: str | None = None
    family: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    weights_bytes: int | None = None
    remote_code: bool | None = None
    trusted: bool = False

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
            remote_code=info.remote_code,
        )

    @classmethod
    def from_variant(cls, family: "Family", variant: "Variant", quantization: str | None) -> "ModelFacts":
        """Return the facts of a model that the catalogue knows; its size is estimated."""
        from llmrun.engines.selection.variants import estimate_weights_bytes
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


def approximate_info(facts: ModelFacts, context_length: int) -> ModelInfo:
    """Return the shape that a model of this size usually has, for estimates while its headers are not known.

    A decoder of L layers and width E has about 12·L·E² weights, and L is about E / 128, so that E = ∛(128·N / 12).
    Source: Kaplan et al. 2020, table 1 (N ≈ 12·n_layer·d_model²); the aspect ratio of 128 is that of Llama 7B to 70B.
    Keys and values are taken to be as wide as the model, which is the most that any model keeps.
    """
    parameters = facts.parameters or 0
    width = max(256, round((128 * parameters / 12) ** (1 / 3) / 128) * 128)
    layers, heads = max(1, width // 128), width // 128
    size_bytes = facts.weights_bytes or 2 * parameters
    return ModelInfo(
        format=facts.format,
        architecture=facts.architecture or "",
        parameters=parameters,
        quantization=facts.quantization,
        context_length=context_length,
        layers=layers,
        embedding_length=width,
        heads=heads,
        kv_heads=(heads,) * layers,
        key_length=128,
        value_length=128,
        vocabulary_size=32_000,
        tensor_bytes=size_bytes,
        tensor_types=((_main_type(facts), size_bytes),),
        family=facts.family,
    )


def _main_type(facts: ModelFacts) -> str:
    """Return the tensor type that a quantization is mostly made of: `Q4_K` of `Q4_K_M`."""
    name = (facts.quantization or "F16").upper().removeprefix("UD-")
    parts = name.split("_")
    return "_".join(parts[:2]) if len(parts) > 1 and parts[1] in ("K", "0", "1", "NL", "XS", "S", "XXS") else parts[0]


def _architecture(family: "Family", variant: "Variant") -> str | None:
    if variant.format is ModelFormat.GGML:
        return variant.model_type
    if variant.format is ModelFormat.GGUF:
        return None  # the catalogue has class names, and these files have names of their own
    if variant.architectures:
        return variant.architectures[0]
    from llmrun.engines.installed.architectures import architecture_of_family

    return architecture_of_family(family.name, variant.size_label)
