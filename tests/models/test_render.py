"""The process that renders templates: what it renders, what it refuses, and that it always ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llmrun.errors import EngineTimeoutError, LlmrunError, ModelFileError, SecurityError
from llmrun.models.prompt import render
from llmrun.models.prompt.render import TemplateRefusalError, TemplateRenderer

HELLO = [{"role": "user", "content": "hello"}]
ENDLESS = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    with TemplateRenderer() as one:
        yield one


@pytest.mark.parametrize(
    ("source", "text"),
    [
        pytest.param("{{ messages[0].content }}", "hello", id="attribute"),
        pytest.param("{{ messages[0]['role'] }}", "user", id="item"),
        pytest.param("{{ bos_token }}|{{ eos_token }}|{{ unk_token }}", "<s>|</s>|", id="special-tokens"),
        pytest.param("  {% if true %}\nx\n  {% endif %}\ny", "x\ny", id="trim-and-lstrip-blocks"),
        pytest.param("{{ {'a': '<é\\'>', 'b': [1, none]} | tojson }}", '{"a": "<é\'>", "b": [1, null]}', id="tojson"),
        pytest.param("{{ {'b': 1, 'a': 2} | tojson(indent=1) }}", '{\n "b": 1,\n "a": 2\n}', id="tojson-indent"),
        pytest.param(
            "{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012", id="break"
        ),
        pytest.param("{% generation %}a{{ 1 }}{% endgeneration %}b", "a1b", id="generation-tag"),
        pytest.param("{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}", "2", id="namespace"),
        pytest.param("{{ strftime_now('%Y') | int > 2000 }}", "True", id="strftime-now"),
        pytest.param("{{ tools is none }} {{ documents is none }}", "True True", id="no-tools"),
        pytest.param("{{ add_generation_prompt }} {{ enable_thinking }}", "True False", id="flags"),
        pytest.param("{{ '<b>' }}", "<b>", id="no-html-escapes"),
        pytest.param("{{ nothing }}", "", id="undefined"),
        pytest.param("{{ 'a\ufdd0\U0001f600' }}", "a\ufdd0\U0001f600", id="unicode"),
    ],
)
def test_renders(renderer: TemplateRenderer, source: str, text: str) -> None:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    assert renderer.render(source, HELLO, tokens, variables={"enable_thinking": False}) == text


def test_content_comes_back_as_it_was(renderer: TemplateRenderer) -> None:
    content = "{{ 1 + 1 }}{% raw %}\x00\x1b[2J\r\n\ud800\udcff\ufffe " + "é" * 200_000
    assert renderer.render("{{ messages[0].content }}", [{"role": "user", "content": content}], {}) == content


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("a\nb{% if %}", "syntax error in line 2", id="syntax"),
        pytest.param("{% for x in y %}", "syntax error in line 1", id="unclosed"),
        pytest.param("{% unknown %}", "syntax error in line 1", id="unknown-tag"),
        pytest.param("{{" + "(" * 5000, "syntax error|calls itself", id="nesting"),
        pytest.param("x\n\n{{ a.b.c }}", "fails in line 3: UndefinedError", id="undefined-attribute"),
        pytest.param("{{ 1 + 'a' }}", "fails in line 1: TypeError", id="type"),
        pytest.param("{{ range(10 ** 9) }}", "fails in line 1: OverflowError", id="range-bomb"),
        pytest.param("{% include '/etc/passwd' %}", "fails", id="include"),
        pytest.param("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end", id="recursion"),
        pytest.param("{{ 'a' * 10 ** 10 }}", "too much memory", id="memory-at-once"),
        pytest.param(
            "{% set n = namespace(x='a' * 4096) %}{% for i in range(30) %}{% set n.x = n.x + n.x %}{% endfor %}",
            "too much memory",
            id="memory-doubling",
        ),
        pytest.param(
            "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "more than 16 million characters", id="output"
        ),
    ],
)
def test_broken_templates(renderer: TemplateRenderer, source: str, said: str) -> None:
    with pytest.raises((ModelFileError, EngineTimeoutError), match=f"{said}|did not end") as caught:
        renderer.render(source, HELLO, {})
    assert caught.value.fix == "--raw sends the prompt without the template"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ ''|attr('__class__') }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{a.__class__}'.format_map({'a': 1}) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler.__init__.__globals__['os'].system('touch pwned') }}",
        "{{ self._TemplateReference__context }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% macro f() %}{% endmacro %}{{ f.__call__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ (messages|map(attribute='__class__')|list)[0].__name__ }}",
    ],
)
def test_no_way_out_of_the_sandbox(renderer: TemplateRenderer, source: str) -> None:
    with pytest.raises(SecurityError, match="tries to reach what is outside it"):
        renderer.render(source, HELLO, {})


def test_refusal_has_the_templates_words_and_no_escapes(renderer: TemplateRenderer) -> None:
    with pytest.raises(TemplateRefusalError) as caught:
        renderer.render("{{ raise_exception('no \x1b]52;c;x\x07 tools\n\u202ehere') }}", HELLO, {})
    assert str(caught.value) == "the model's chat template refuses this conversation: no  ]52;c;x  tools  here"


def test_endless_template_is_ended_and_the_next_one_rendered(renderer: TemplateRenderer) -> None:
    started = time.monotonic()
    with pytest.raises(EngineTimeoutError, match="did not end within 2 seconds"):
        renderer.render(ENDLESS, HELLO, {})
    assert 1.9 < time.monotonic() - started < 6
    assert renderer.render("{{ 1 }}", HELLO, {}) == "1"


def test_one_long_operation_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_RENDER_SECONDS", 0.3)
    with TemplateRenderer() as one, pytest.raises(EngineTimeoutError):
        one.render("{% set x = 7 ** (10 ** 8) %}", HELLO, {})


def test_crash_of_the_process_is_an_error_and_mends(renderer: TemplateRenderer) -> None:
    renderer.render("x", HELLO, {})
    os.kill(_pid(renderer), signal.SIGKILL)
    with pytest.raises(ModelFileError, match="crashed its process"):
        renderer.render("x", HELLO, {})
    assert renderer.render("x", HELLO, {}) == "x"


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x09{}", b"\x00\x00\x00\x02{]", b"\x00\x00\x00\x02[]"],
)
def test_damaged_answers(answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    ready = b'\x00\x00\x00\x0f{"ready": true}'
    child.write_text(f"import sys\nsys.stdout.buffer.write({ready + answer!r})\n")
    monkeypatch.setattr(render, "_CHILD", child)
    with TemplateRenderer() as one, pytest.raises(LlmrunError):
        one.render("x", HELLO, {})


def test_child_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_CHILD", tmp_path / "none.py")
    with TemplateRenderer() as one, pytest.raises(ModelFileError, match="did not start"):
        one.render("x", HELLO, {})


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_child_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    with TemplateRenderer() as one:
        one.render("x", HELLO, {})
        names = {item.split("=")[0] for item in psutil.Process(_pid(one)).environ()}
    assert names <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SYSTEMROOT", "LD_LIBRARY_PATH"}


def test_close_ends_the_process_and_may_be_repeated() -> None:
    one = TemplateRenderer()
    pid = _pid(one)
    one.close()
    one.close()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    "busy", [pytest.param(False, id="idle"), pytest.param(True, id="in-a-loop", marks=pytest.mark.slow)]
)
def test_no_orphan_when_the_parent_is_killed(busy: bool) -> None:
    program = f"""
import json, os, signal
from llmrun.models.prompt.render import TemplateRenderer
one = TemplateRenderer()
one.render("x", [], {{}})
if {busy}:
    body = json.dumps({{"source": {ENDLESS!r}, "variables": {{}}}}).encode()
    one.process.stdin.write(len(body).to_bytes(4, "big") + body)
    one.process.stdin.flush()
print(one.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.05)
    assert not _runs(pid)


def test_module_is_light() -> None:
    program = (
        "import sys, llmrun.models.prompt.conversation;"
        " print(*sorted({'jinja2', 'subprocess', 'threading'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def _pid(renderer: TemplateRenderer) -> int:
    assert isinstance(renderer.process, subprocess.Popen)
    return renderer.process.pid


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
