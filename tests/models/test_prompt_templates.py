"""The catalogue's chat templates, each against the whole text that the model was trained on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrun.models.catalogue import families
from llmrun.models.prompt import conversation as prompt
from llmrun.models.prompt.conversation import ChatTemplate, Message, render_prompt
from llmrun.models.prompt.render import TemplateRefusalError, TemplateRenderer
from llmrun.models.types import SpecialTokens

FOLDER = Path(prompt.__file__).with_name("templates")
SPECIAL = SpecialTokens(bos="<s>", eos="</s>")
SYSTEM = Message(role="system", content="Be brief.")
TURNS = [
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello."),
    Message(role="user", content="Bye"),
]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
ORCA = "You are an AI assistant that follows instruction extremely well. Help as much as you can."
DEEPSEEK = (
    "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and you "
    "only answer questions related to computer science. For politically sensitive questions, security and privacy "
    "issues, and other non-computer science questions, you will refuse to answer"
)

# name: with a system message, and without.
EXPECTED = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "Hello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    ),
    "llama-2-chat": (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]",
        "<s>[INST] Hi [/INST] Hello. </s><s>[INST] Bye [/INST]",
    ),
    "vicuna": (
        "Be brief. USER: Hi ASSISTANT: Hello.</s>USER: Bye ASSISTANT:",
        f"{VICUNA} USER: Hi ASSISTANT: Hello.</s>USER: Bye ASSISTANT:",
    ),
    "orca-mini": (
        "### System:\nBe brief.\n\n### User:\nHi\n\n### Response:\nHello.\n\n### User:\nBye\n\n### Response:\n",
        f"### System:\n{ORCA}\n\n### User:\nHi\n\n### Response:\nHello.\n\n### User:\nBye\n\n### Response:\n",
    ),
    "falcon-instruct": (
        "Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Bye\n\nAssistant:",
        "\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Bye\n\nAssistant:",
    ),
    "starchat-beta": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nBye<|end|>\n<|assistant|>",
        "<|system|>\n<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>",
    ),
    "baichuan-chat": (
        "<reserved_102>Be brief.\n\nHi<reserved_103>Hello.</s><reserved_102>Bye<reserved_103>",
        "<reserved_102>Hi<reserved_103>Hello.</s><reserved_102>Bye<reserved_103>",
    ),
    "baichuan-2-chat": (
        "Be brief.<reserved_106>Hi<reserved_107>Hello.<reserved_106>Bye<reserved_107>",
        "<reserved_106>Hi<reserved_107>Hello.<reserved_106>Bye<reserved_107>",
    ),
    "internlm-chat": (
        "<s><|System|>:Be brief.\n<|User|>:Hi\n<|Bot|>:Hello.<eoa>\n<|User|>:Bye\n<|Bot|>:",
        "<s><|User|>:Hi\n<|Bot|>:Hello.<eoa>\n<|User|>:Bye\n<|Bot|>:",
    ),
    "mistral-instruct-v1": (
        "<s> [INST] Be brief.\n\nHi [/INST] Hello.</s> [INST] Bye [/INST]",
        "<s> [INST] Hi [/INST] Hello.</s> [INST] Bye [/INST]",
    ),
    "mistral-instruct-v3": (
        "<s>[INST] Hi[/INST] Hello.</s>[INST] Be brief.\n\nBye[/INST]",
        "<s>[INST] Hi[/INST] Hello.</s>[INST] Bye[/INST]",
    ),
    "mistral-instruct-tekken": (
        "<s>[INST]Hi[/INST]Hello.</s>[INST]Be brief.\n\nBye[/INST]",
        "<s>[INST]Hi[/INST]Hello.</s>[INST]Bye[/INST]",
    ),
    "deepseek-coder-instruct": (
        "<s>Be brief.\n### Instruction:\nHi\n### Response:\nHello.\n<|EOT|>\n### Instruction:\nBye\n### Response:\n",
        f"<s>{DEEPSEEK}\n### Instruction:\nHi\n### Response:\nHello.\n<|EOT|>\n### Instruction:\nBye\n### Response:\n",
    ),
    "phi-2": (
        "Instruct: Be brief.\n\nHi\nOutput: Hello.\nInstruct: Bye\nOutput:",
        "Instruct: Hi\nOutput: Hello.\nInstruct: Bye\nOutput:",
    ),
    "llama-3-instruct": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        "Hello.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}
MOVES_SYSTEM = {"baichuan-chat", "phi-2"}


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    with TemplateRenderer() as one:
        yield one


def read(name: str) -> ChatTemplate:
    return ChatTemplate(source=(FOLDER / f"{name}.jinja").read_text(encoding="utf-8"), origin=name)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("system", [True, False], ids=["system", "no-system"])
def test_published_format(renderer: TemplateRenderer, name: str, system: bool) -> None:
    messages = [SYSTEM, *TURNS] if system else TURNS
    rendered = render_prompt(read(name), messages, renderer, special_tokens=SPECIAL, control_tokens=())
    assert rendered.text == EXPECTED[name][0 if system else 1]
    assert len(rendered.segments) == 1
    assert bool(rendered.notices) == (system and name in MOVES_SYSTEM)


@pytest.mark.parametrize("name", ["llama-2-chat", "falcon-instruct", "mistral-instruct-v1", "mistral-instruct-v3"])
def test_turns_must_alternate(renderer: TemplateRenderer, name: str) -> None:
    twice = [TURNS[0], TURNS[0]]
    with pytest.raises(TemplateRefusalError, match="must take turns"):
        render_prompt(read(name), twice, renderer, special_tokens=SPECIAL, control_tokens=())


def test_every_template_is_tested_and_says_its_source() -> None:
    files = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert files.keys() == EXPECTED.keys()
    assert [name for name, text in files.items() if not text.startswith("{#- Source: ")] == []


def test_every_template_belongs_to_a_family() -> None:
    assert {family.template for family in families()} - {None} == EXPECTED.keys()


def test_base_models_have_none() -> None:
    # TinyLlama's file is its chat version; Phi-2 was not tuned, but its card documents a question-and-answer form.
    with_template = {family.name for family in families() if family.kind == "generate" and family.template}
    assert with_template == {"tiny-llama", "phi-2"}
