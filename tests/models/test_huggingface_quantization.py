"""How a folder's weights are quantized, from every place and name that tools write it under, and how many they are."""

from typing import Any

import pytest
from folder_builder import TINY_CONFIG, MemoryFolder, Tensors, folder, tiny_tensors

from llmrun.errors import ModelFileError
from llmrun.models.huggingface.info import read_folder_info
from llmrun.models.types import ModelFormat

# Two tables, two layers (four projections, three of the feed-forward network, two norms), the last norm.
WEIGHTS = 2 * 640 + 2 * (2 * 256 + 2 * 128 + 3 * 512 + 2 * 16) + 16


def packed(how: str) -> Tensors:
    """The tiny llama with its linear layers as a quantizer leaves them."""
    found: Tensors = {}
    for name, (dtype, shape) in tiny_tensors().items():
        if "_proj" in name:
            found |= as_packed(name.removesuffix(".weight"), *shape)[how]
        else:
            found[name] = (dtype, shape)
    return found


def as_packed(stem: str, rows: int, columns: int) -> dict[str, Tensors]:
    return {
        "gptq": {
            f"{stem}.qweight": ("I32", (columns // 8, rows)),
            f"{stem}.qzeros": ("I32", (1, rows // 8)),
            f"{stem}.scales": ("F16", (1, rows)),
            f"{stem}.g_idx": ("I32", (columns,)),
        },
        "packed": {
            f"{stem}.weight_packed": ("I32", (rows, columns // 8)),
            f"{stem}.weight_scale": ("BF16", (rows, 1)),
            f"{stem}.weight_shape": ("I32", (2,)),
        },
        "fp8": {
            f"{stem}.weight": ("F8_E4M3", (rows, columns)),
            f"{stem}.weight_scale_inv": ("F32", (1, 1)),
            f"{stem}.input_scale": ("F32", (1,)),
        },
        "nvfp4": {
            f"{stem}.weight": ("U8", (rows, columns // 2)),
            f"{stem}.weight_scale": ("F8_E4M3", (rows, 1)),
            f"{stem}.weight_scale_2": ("F32", ()),
        },
        "bnb4": {
            f"{stem}.weight": ("U8", (rows * columns // 2, 1)),
            f"{stem}.weight.absmax": ("U8", (4,)),
            f"{stem}.weight.quant_map": ("F32", (16,)),
            f"{stem}.weight.nested_absmax": ("F32", (1,)),
            f"{stem}.weight.nested_quant_map": ("F32", (256,)),
            f"{stem}.weight.quant_state.bitsandbytes__nf4": ("U8", (90,)),
        },
        "int8": {f"{stem}.weight": ("I8", (rows, columns)), f"{stem}.SCB": ("F32", (rows,))},
    }


def compressed(kind: str, bits: int, layout: str) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": bits, "type": kind}}}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups}


@pytest.mark.parametrize(
    ("settings", "how", "expected"),
    [
        pytest.param({"quant_method": "gptq", "bits": 4}, "gptq", ("gptq", "Int4"), id="gptq"),
        pytest.param({"quant_method": "awq", "bits": 4, "version": "gemm"}, "gptq", ("awq", "Int4"), id="awq"),
        pytest.param({"quant_method": "fp8", "fmt": "e4m3"}, "fp8", ("fp8", "fp8"), id="fp8"),
        pytest.param({"quant_method": "fbgemm_fp8"}, "fp8", ("fp8", "fp8"), id="fbgemm"),
        pytest.param({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bnb4", ("bnb", "4-bit"), id="bnb 4"),
        pytest.param({"load_in_8bit": True, "load_in_4bit": False}, "int8", ("bnb", "8-bit"), id="bnb 8"),
        pytest.param(compressed("int", 4, "pack-quantized"), "packed", ("gptq", "Int4"), id="compressed int4"),
        pytest.param(compressed("int", 8, "int-quantized"), "int8", ("gptq", "Int8"), id="compressed int8"),
        pytest.param(compressed("float", 8, "float-quantized"), "fp8", ("fp8", "fp8"), id="compressed fp8"),
        pytest.param(compressed("float", 4, "nvfp4-pack-quantized"), "nvfp4", ("fp4", "nvfp4"), id="compressed nvfp4"),
        pytest.param(compressed("float", 4, "mxfp4-pack-quantized"), "nvfp4", ("fp4", "mxfp4"), id="compressed mxfp4"),
        pytest.param({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", ("fp4", "nvfp4"), id="modelopt fp4"),
        pytest.param({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", ("fp8", "fp8"), id="modelopt fp8"),
    ],
)
def test_methods(settings: dict[str, Any], how: str, expected: tuple[str, str]) -> None:
    info = read_folder_info(folder(TINY_CONFIG | {"quantization_config": settings}, packed(how)))
    assert (info.format, info.quantization) == expected
    assert info.parameters == WEIGHTS


def test_unquantized() -> None:
    info = read_folder_info(folder())
    assert (info.format, info.quantization, info.parameters) == (ModelFormat.PYTORCH, "bf16", WEIGHTS)


@pytest.mark.parametrize(
    ("name", "content", "how", "expected"),
    [
        pytest.param("quantize_config.json", {"bits": 4, "group_size": 128}, "gptq", ("gptq", "Int4"), id="auto-gptq"),
        pytest.param("quant_config.json", {"w_bit": 4, "version": "GEMM"}, "gptq", ("awq", "Int4"), id="auto-awq"),
        pytest.param(
            *("hf_quant_config.json", {"producer": {}, "quantization": {"quant_algo": "FP8"}}),
            *("fp8", ("fp8", "fp8")),
            id="modelopt",
        ),
    ],
)
def test_settings_in_a_file_of_their_own(
    name: str, content: dict[str, Any], how: str, expected: tuple[str, str]
) -> None:
    info = read_folder_info(folder(tensors=packed(how)).put(name, content))
    assert (info.format, info.quantization) == expected
    assert info.parameters == WEIGHTS


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"quant_method": "magic"}, "the quantization method 'magic'", id="unknown"),
        pytest.param({"quant_method": ["gptq"]}, "the quantization method", id="a list"),
        pytest.param({"bits": 4}, "the quantization method 'None'", id="none named"),
        pytest.param("gptq", "must be an object", id="a text"),
        pytest.param({"quant_method": "gptq", "bits": 0}, "0 bits", id="0 bits"),
        pytest.param({"quant_method": "gptq", "bits": "4"}, "bits", id="bits a text"),
        pytest.param({"quant_method": "compressed-tensors"}, "without quantized weights", id="compressed, empty"),
        pytest.param(compressed("float", 3, "x"), "3-bit weights of the type 'float'", id="compressed, unknown"),
        pytest.param({"quant_method": "modelopt", "quant_algo": "INT1"}, "ModelOpt's 'INT1'", id="modelopt, unknown"),
    ],
)
def test_faults_27_an_unknown_method_is_refused_by_name(settings: object, said: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        read_folder_info(folder(TINY_CONFIG | {"quantization_config": settings}, packed("gptq")))
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("made", "said"),
    [
        pytest.param(folder(tensors=packed("gptq")), "has no quantization_config, but", id="packed, not stated"),
        pytest.param(
            folder(TINY_CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
            "says that the weights are quantized with gptq, but not one",
            id="stated, not packed",
        ),
    ],
)
def test_settings_and_weights_must_agree(made: MemoryFolder, said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        read_folder_info(made)
