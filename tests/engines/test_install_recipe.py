"""How llama.cpp is built is a pure function of machine and compilers; these tables are its specification."""

from pathlib import Path

import pytest

from llmrun.engines.install.advice import advise, find_compiler_command
from llmrun.engines.install.compilers import has_amx_bug, is_usable, rank_compilers
from llmrun.engines.install.recipe import choose_recipes
from llmrun.engines.install.types import Command, Recipe
from llmrun.errors import NoUsableEngineError, UsageError
from llmrun.hardware.types import (
    GPU,
    Accelerator,
    Compiler,
    CpuInfo,
    GpuVendor,
    Machine,
    MemoryInfo,
    Toolchain,
)

HASWELL = "sse4_2 avx f16c fma bmi2 avx2"
SKYLAKE_X = f"{HASWELL} avx512f avx512cd avx512vl avx512dq avx512bw"
ZEN4 = f"{SKYLAKE_X} avx512vbmi avx512_vnni avx512_bf16"
SAPPHIRE_RAPIDS = f"{ZEN4} avx_vnni amx_tile amx_int8 amx_bf16"
ALDER_LAKE = f"{HASWELL} avx_vnni"


def machine(flags: str, architecture: str = "x86_64", gpus: tuple[GPU, ...] = (), system: str = "linux") -> Machine:
    cpu = CpuInfo(
        name="Test CPU",
        architecture=architecture,
        physical_cores=2,
        logical_cores=4,
        affinity=4,
        quota=None,
        isa_flags=frozenset(flags.split()),
    )
    memory = MemoryInfo(total_bytes=16 << 30, available_bytes=12 << 30)
    return Machine(system=system, python_version="3.11.7", cpu=cpu, memory=memory, gpus=gpus)


def compiler(family: str, version: str, openmp: str | None = "default") -> Compiler:
    runtime = {"gcc": "libgomp", "clang": "libomp"}.get(family) if openmp == "default" else openmp
    numbers = tuple(int(part) for part in version.split("."))
    return Compiler(family=family, version=numbers, cc=f"/bin/{family}", cxx=f"/bin/{family}++", openmp=runtime)


def recipes(flags: str, *compilers: Compiler, architecture: str = "x86_64") -> tuple[Recipe, ...]:
    return choose_recipes(machine(flags, architecture), Toolchain(compilers=compilers))


def gpu(vendor: GpuVendor, capability: str | None = None) -> GPU:
    return GPU(vendor=vendor, name=f"{vendor} GPU", total_bytes=1, free_bytes=1, compute_capability=capability)


@pytest.mark.parametrize(
    ("family", "version", "broken"),
    [
        ("gcc", "11.4.0", True),
        ("gcc", "12.2.0", True),
        ("gcc", "12.3.0", True),
        ("gcc", "12.4.0", False),
        ("gcc", "13.1.0", True),
        ("gcc", "13.2.0", True),
        ("gcc", "13.3.0", False),
        ("gcc", "14.1.0", False),
        ("clang", "14.0.6", False),
        ("clang", "19.1.7", False),
    ],
)
def test_which_gcc_gets_amx_wrong(family: str, version: str, broken: bool) -> None:
    assert has_amx_bug(compiler(family, version)) is broken


@pytest.mark.parametrize(
    ("flags", "family", "version", "names"),
    [
        pytest.param(
            SAPPHIRE_RAPIDS,
            "gcc",
            "12.2.0",
            ["no-amx-kernels", "no-amx", "portable"],
            id="old gcc on amx is never native",
        ),
        pytest.param(SAPPHIRE_RAPIDS, "gcc", "11.4.0", ["no-amx-kernels", "no-amx", "portable"], id="older gcc on amx"),
        pytest.param(SAPPHIRE_RAPIDS, "gcc", "13.2.0", ["no-amx-kernels", "no-amx", "portable"], id="gcc 13.2 on amx"),
        pytest.param(
            SAPPHIRE_RAPIDS,
            "gcc",
            "12.4.0",
            ["native-kernels", "native", "no-amx", "portable"],
            id="mended gcc 12 on amx",
        ),
        pytest.param(
            SAPPHIRE_RAPIDS, "gcc", "14.2.0", ["native-kernels", "native", "no-amx", "portable"], id="new gcc on amx"
        ),
        pytest.param(
            SAPPHIRE_RAPIDS, "clang", "19.1.7", ["native-kernels", "native", "no-amx", "portable"], id="clang on amx"
        ),
        pytest.param(
            SAPPHIRE_RAPIDS,
            "clang",
            "14.0.6",
            ["native-kernels", "native", "no-amx", "portable"],
            id="old clang on amx",
        ),
        pytest.param(ZEN4, "gcc", "12.2.0", ["native-kernels", "native", "portable"], id="old gcc without amx"),
        pytest.param(ZEN4, "clang", "19.1.7", ["native-kernels", "native", "portable"], id="clang without amx"),
        pytest.param(HASWELL, "gcc", "9.4.0", ["native", "portable"], id="oldest gcc"),
        pytest.param(SKYLAKE_X, "clang", "19.1.7", ["native", "portable"], id="avx-512 without vnni"),
    ],
)
def test_order_of_recipes(flags: str, family: str, version: str, names: list[str]) -> None:
    found = recipes(flags, compiler(family, version))
    assert [recipe.name for recipe in found] == names
    for recipe in found:
        assert ("-DGGML_NATIVE=ON" in recipe.options) is recipe.name.startswith("native")
        assert recipe.kernels is recipe.name.endswith("-kernels")


@pytest.mark.parametrize("flags", [SAPPHIRE_RAPIDS, ZEN4])
def test_kernels_are_left_out_when_asked(flags: str) -> None:
    toolchain = Toolchain(compilers=(compiler("clang", "19.1.7"),))
    with_kernels, without = (choose_recipes(machine(flags), toolchain, kernels=kernels) for kernels in (True, False))
    assert with_kernels[1:] == without
    assert set(with_kernels[0].options) - set(without[0].options) == {"-DLLMRUN_KERNELS=ON"}
    assert not [recipe for recipe in without if recipe.kernels]


@pytest.mark.parametrize("version", ["9.4.0", "10.2.0", "11.4.0", "12.2.0", "12.3.0", "13.1.0", "13.2.0"])
@pytest.mark.parametrize("flags", [SAPPHIRE_RAPIDS, f"{HASWELL} amx_tile", f"{HASWELL} amx_bf16"])
def test_no_recipe_of_a_broken_gcc_has_amx(version: str, flags: str) -> None:
    for recipe in recipes(flags, compiler("gcc", version)):
        assert "-DGGML_NATIVE=OFF" in recipe.options
        assert {"-DGGML_AMX_TILE=OFF", "-DGGML_AMX_INT8=OFF", "-DGGML_AMX_BF16=OFF"} <= set(recipe.options)


@pytest.mark.parametrize(
    ("flags", "family", "version", "on"),
    [
        pytest.param(
            SAPPHIRE_RAPIDS,
            "gcc",
            "12.2.0",
            {"SSE42", "AVX", "F16C", "FMA", "BMI2", "AVX2", "AVX_VNNI"}
            | {"AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16"},
            id="everything but amx",
        ),
        pytest.param(
            SAPPHIRE_RAPIDS,
            "gcc",
            "10.2.0",
            {"SSE42", "AVX", "F16C", "FMA", "BMI2", "AVX2", "AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16"},
            id="gcc 10 does not know avx-vnni",
        ),
        pytest.param(
            SAPPHIRE_RAPIDS,
            "gcc",
            "9.4.0",
            {"SSE42", "AVX", "F16C", "FMA", "BMI2", "AVX2", "AVX512", "AVX512_VBMI", "AVX512_VNNI"},
            id="gcc 9 does not know avx512-bf16 either",
        ),
        pytest.param(
            f"{ALDER_LAKE} amx_tile",
            "gcc",
            "12.2.0",
            {"SSE42", "AVX", "F16C", "FMA", "BMI2", "AVX2", "AVX_VNNI"},
            id="no avx-512 on this cpu",
        ),
        pytest.param("sse4_2 avx amx_tile", "gcc", "12.2.0", {"SSE42", "AVX"}, id="an odd virtual machine"),
        pytest.param(
            "sse4_2 avx avx512f amx_tile", "gcc", "12.2.0", {"SSE42", "AVX"}, id="avx512f alone is not enough"
        ),
    ],
)
def test_instruction_sets_by_name(flags: str, family: str, version: str, on: set[str]) -> None:
    recipe = next(item for item in recipes(flags, compiler(family, version)) if item.name == "no-amx")
    switched = {option.removeprefix("-DGGML_").removesuffix("=ON") for option in recipe.options if "=ON" in option}
    assert switched == on


def test_every_set_is_named_because_llama_cpp_turns_some_on_by_default() -> None:
    portable = recipes("sse4_2", compiler("gcc", "12.2.0"))[-1]
    for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2", "AVX512"):
        assert f"-DGGML_{name}=OFF" in portable.options
    assert "-DGGML_SSE42=ON" in portable.options


def test_portable_has_neither_avx512_nor_amx() -> None:
    portable = recipes(SAPPHIRE_RAPIDS, compiler("clang", "19.1.7"))[-1]
    assert not [option for option in portable.options if ("AVX512" in option or "AMX" in option) and "=ON" in option]
    assert "-DGGML_AVX2=ON" in portable.options


def test_arm_is_native_then_the_oldest_common_set() -> None:
    found = recipes("asimd i8mm", compiler("gcc", "12.2.0"), architecture="arm64")
    assert [recipe.name for recipe in found] == ["native", "portable"]
    assert not [option for option in found[1].options if "AVX" in option]


@pytest.mark.parametrize(
    ("chosen", "value"),
    [
        pytest.param(compiler("clang", "19.1.7"), "ON", id="clang with libomp"),
        pytest.param(compiler("clang", "19.1.7", None), "OFF", id="clang without it"),
        pytest.param(compiler("gcc", "12.2.0"), "OFF", id="gcc: ggml's threads are better than libgomp"),
        pytest.param(compiler("apple-clang", "15.0.0"), "OFF", id="apple's clang"),
    ],
)
def test_openmp(chosen: Compiler, value: str) -> None:
    assert f"-DGGML_OPENMP={value}" in recipes(ZEN4, chosen)[0].options


CLANG_19, CLANG_14 = compiler("clang", "19.1.7"), compiler("clang", "14.0.6")
CLANG_21_BARE = compiler("clang", "21.1.0", None)
GCC_12, GCC_14 = compiler("gcc", "12.2.0"), compiler("gcc", "14.2.0")


@pytest.mark.parametrize(
    ("amx", "expected"),
    [
        pytest.param(False, [CLANG_19, CLANG_21_BARE, GCC_14, GCC_12, CLANG_14], id="without amx"),
        pytest.param(True, [CLANG_19, CLANG_21_BARE, GCC_14, CLANG_14, GCC_12], id="with amx, broken gcc last"),
    ],
)
def test_ranking(amx: bool, expected: list[Compiler]) -> None:
    assert list(rank_compilers([GCC_12, CLANG_14, GCC_14, CLANG_21_BARE, CLANG_19], amx=amx)) == expected


@pytest.mark.parametrize(
    ("family", "version", "usable"),
    [("gcc", "8.5.0", False), ("gcc", "9.1.0", True), ("clang", "13.0.1", False), ("tcc", "99", False)],
)
def test_too_old_to_use(family: str, version: str, usable: bool) -> None:
    assert is_usable(compiler(family, version)) is usable


def test_no_compiler_says_what_was_found_instead() -> None:
    toolchain = Toolchain(compilers=(compiler("gcc", "8.5.0"),), problems=("clang++-16 cannot build a program",))
    with pytest.raises(NoUsableEngineError, match=r"found gcc 8\.5\.0; clang\+\+-16 cannot build a program"):
        choose_recipes(machine(HASWELL), toolchain)
    with pytest.raises(NoUsableEngineError, match="found no compiler"):
        choose_recipes(machine(HASWELL), Toolchain())


ALL_TOOLKITS = tuple((toolkit, f"/opt/{toolkit}/bin/tool") for toolkit in Accelerator)


@pytest.mark.parametrize(
    ("gpus", "toolkits", "option"),
    [
        pytest.param((), ALL_TOOLKITS, None, id="toolkits without a gpu are not used"),
        pytest.param((gpu(GpuVendor.NVIDIA, "9.0"),), ALL_TOOLKITS, "-DGGML_CUDA=ON", id="nvidia"),
        pytest.param((gpu(GpuVendor.AMD),), ALL_TOOLKITS, "-DGGML_HIP=ON", id="amd"),
        pytest.param((gpu(GpuVendor.APPLE),), ALL_TOOLKITS, "-DGGML_METAL=ON", id="apple"),
        pytest.param((gpu(GpuVendor.AMD),), ALL_TOOLKITS[3:], "-DGGML_VULKAN=ON", id="amd with vulkan only"),
        pytest.param((gpu(GpuVendor.NVIDIA),), ALL_TOOLKITS[3:], "-DGGML_VULKAN=ON", id="nvidia with vulkan only"),
        pytest.param((gpu(GpuVendor.INTEL),), ALL_TOOLKITS, None, id="intel's share the cpu's memory"),
        pytest.param((gpu(GpuVendor.NVIDIA),), (), None, id="no toolkit"),
    ],
)
def test_accelerator_needs_a_device_and_a_toolkit(
    gpus: tuple[GPU, ...], toolkits: tuple[tuple[Accelerator, str], ...], option: str | None
) -> None:
    toolchain = Toolchain(compilers=(CLANG_19,), accelerators=toolkits)
    options = choose_recipes(machine(ZEN4, gpus=gpus), toolchain)[0].options
    names = ("-DGGML_CUDA=ON", "-DGGML_HIP=ON", "-DGGML_METAL=ON", "-DGGML_VULKAN=ON")
    assert [item for item in options if item in names] == ([option] if option else [])


def test_cuda_is_built_for_the_gpus_that_are_there() -> None:
    gpus = (gpu(GpuVendor.NVIDIA, "9.0"), gpu(GpuVendor.NVIDIA, "8.6"), gpu(GpuVendor.NVIDIA, "9.0"))
    toolchain = Toolchain(compilers=(CLANG_19,), accelerators=((Accelerator.CUDA, "/usr/local/cuda/bin/nvcc"),))
    options = choose_recipes(machine(ZEN4, gpus=gpus), toolchain)[0].options
    assert "-DCMAKE_CUDA_ARCHITECTURES=86;90" in options
    assert "-DCMAKE_CUDA_COMPILER=/usr/local/cuda/bin/nvcc" in options


def test_an_accelerator_that_is_asked_for_needs_its_toolkit_only() -> None:
    toolchain = Toolchain(compilers=(CLANG_19,), accelerators=((Accelerator.CUDA, "/nvcc"),))
    recipe = choose_recipes(machine(ZEN4), toolchain, accelerator=Accelerator.CUDA)[0]
    assert recipe.accelerator is Accelerator.CUDA
    with pytest.raises(UsageError, match="--accelerator rocm needs ROCm"):
        choose_recipes(machine(ZEN4), toolchain, accelerator=Accelerator.ROCM)


def test_cpu_only_leaves_the_gpu_out() -> None:
    toolchain = Toolchain(compilers=(CLANG_19,), accelerators=ALL_TOOLKITS)
    here = machine(ZEN4, gpus=(gpu(GpuVendor.NVIDIA),))
    assert choose_recipes(here, toolchain, cpu_only=True)[0].accelerator is None


@pytest.mark.parametrize(
    ("flags", "used", "expected"),
    [
        pytest.param(SAPPHIRE_RAPIDS, GCC_12, "about 2x faster here in generation, 4x in prompt", id="gcc on amx"),
        pytest.param(SAPPHIRE_RAPIDS, GCC_14, "about 1.2x faster here in prompt processing", id="good gcc on amx"),
        pytest.param(ZEN4, GCC_12, "about 1.2x faster here in prompt processing", id="gcc without amx"),
        pytest.param(ZEN4, CLANG_19, "", id="nothing better is known"),
        pytest.param(ZEN4, CLANG_21_BARE, "", id="clang without libomp is as fast"),
    ],
)
def test_advice(flags: str, used: Compiler, expected: str) -> None:
    said = advise(machine(flags), Toolchain(compilers=(used,)), used, None, "apt-get install clang-19")
    assert expected in said
    assert bool(said) is bool(expected)
    assert not said or said.endswith("apt-get install clang-19")


def test_advice_names_the_gpu_that_is_not_used() -> None:
    here = machine(ZEN4, gpus=(gpu(GpuVendor.NVIDIA),))
    assert "would use the nvidia GPU" in advise(here, Toolchain(compilers=(CLANG_19,)), CLANG_19, None, "")
    assert advise(here, Toolchain(compilers=(CLANG_19,)), CLANG_19, Accelerator.CUDA, "") == ""


@pytest.mark.parametrize(
    ("system", "programs", "command"),
    [
        ("linux", {"apt-get"}, "apt-get install clang-19 libomp-19-dev"),
        ("linux", {"dnf"}, "dnf install clang libomp-devel"),
        ("linux", {"pacman"}, "pacman -S clang openmp"),
        ("linux", set(), "install Clang 19 and LLVM's OpenMP runtime (libomp) with the system's package manager"),
        ("darwin", {"brew"}, "xcode-select --install"),
    ],
)
def test_the_command_is_that_of_the_system(system: str, programs: set[str], command: str) -> None:
    assert find_compiler_command(system, lambda name: f"/bin/{name}" if name in programs else None) == command


def test_a_command_is_shown_so_that_a_shell_runs_the_same() -> None:
    import subprocess
    import sys

    text = "a b'c\"d;$HOME *"
    program = "import os, sys; print(os.environ['ARGS'] + '|' + sys.argv[1])"
    command = Command(argv=(sys.executable, "-c", program, text), variables=(("ARGS", text),))
    shell = subprocess.run(["/bin/sh", "-c", command.render()], capture_output=True, text=True, timeout=30)
    direct = subprocess.run(command.argv, capture_output=True, text=True, env=command.environment(), timeout=30)
    assert shell.stdout == direct.stdout == f"{text}|{text}\n"


def test_the_cmake_file_is_in_the_package() -> None:
    import llmrun.engines.install.llama_cpp as module

    assert Path(module.__file__).with_name("llama_cpp.cmake").is_file()
