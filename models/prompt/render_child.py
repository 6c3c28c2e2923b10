"""The process that renders chat templates. It is a program of its own and imports nothing of llmrun.

A chat template is a program by a stranger. Here it runs in Jinja's sandbox, which keeps it from Python's objects, in a
process that has little memory and processor time and no secrets, which keeps it from hanging or filling the machine.
What Jinja's sandbox lets pass silently (reading a forbidden attribute gives an empty text) is refused here.

Started as `python -I -S render_child.py FOLDER...`, the folders being where Jinja may be imported from. It answers
`{"ready": true}`, then one answer for each request, until its standard input ends. Both ways a message is four bytes
of length, big-endian, then JSON. A request has `source` and `variables`; an answer has `text`, or `error` (a kind),
`message` and `line`.
"""

import gc
import json
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any, BinaryIO

_MEMORY_BYTES = 512 << 20
_CPU_SECONDS = 3
_MAX_OUTPUT_CHARACTERS = 16 << 20
_MAX_REQUEST_BYTES = 256 << 20


class Refusal(Exception):
    """The template says why it does not take this conversation (`raise_exception`)."""


class OutputTooLong(Exception):
    """The template writes more than any prompt has."""


def read_message(stream: BinaryIO) -> Any:
    """Return the next message, or None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "big")
    if size > _MAX_REQUEST_BYTES:
        return None
    body = stream.read(size)
    return json.loads(body.decode("utf-8", "surrogatepass")) if len(body) == size else None


def write_message(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message and flush it."""
    body = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


def pass_over_package() -> None:
    """Let modules of Jinja be imported without the package's own, which imports loaders and caches that nobody needs.

    They cost a fifth of the start. The package object is made here, with nothing but its path.
    """
    spec = find_spec("jinja2")
    if spec is None or spec.submodule_search_locations is None:
        return  # importing it will say so
    package = ModuleType("jinja2")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["jinja2"] = package


def make_environment() -> Any:
    """Return the Jinja environment that published chat templates are written for.

    Source: transformers, utils/chat_template_utils.py (the options, filters and globals; not the code).
    """
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """`{% generation %}` marks the assistant's part for training; it prints its body."""

        tags = {"generation"}  # noqa: RUF012  Jinja's own form

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    class Environment(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: object, attribute: str) -> Any:
            raise SecurityError(f"access to attribute {attribute!r} of a {type(obj).__name__} object is unsafe")

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as it is: Jinja's own filter escapes `<` and `'` for HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: object) -> None:
    raise Refusal(str(message))


def _now(form: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(form)


def render(environment: Any, source: str, variables: dict[str, Any]) -> str:
    """Render one template, counting what it writes."""
    pieces: list[str] = []
    left = _MAX_OUTPUT_CHARACTERS
    for piece in environment.from_string(source).generate(**variables):
        left -= len(piece)
        if left < 0:
            raise OutputTooLong
        pieces.append(piece)
    return "".join(pieces)


def answer(environment: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Render what a request asks for, and say what went wrong as a kind that the other side knows."""
    from jinja2.exceptions import SecurityError, TemplateSyntaxError

    try:
        return {"text": render(environment, request["source"], request["variables"])}
    except TemplateSyntaxError as error:
        return {"error": "syntax", "message": error.message or "", "line": error.lineno}
    except Exception as error:  # noqa: BLE001  whatever a stranger's program raises is an answer, not a bug of ours
        kinds: dict[type[Exception], str] = {
            SecurityError: "security",
            Refusal: "refused",
            OutputTooLong: "output",
            MemoryError: "memory",
            RecursionError: "recursion",
        }
        message = (
            str(error)[:2000]
            if isinstance(error, (SecurityError, Refusal))
            else f"{type(error).__name__}: {error}"[:2000]
        )
        return {"error": kinds.get(type(error), "failed"), "message": message, "line": _line_of(error)}


def _line_of(error: BaseException) -> int | None:
    """Return the template's line that was running; Jinja gives its frames the template's line numbers."""
    line, frame = None, error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return line


def limit_memory() -> None:
    """Bound the address space, where the platform can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        return  # the time limit bounds it then


def limit_time() -> None:
    """Let the kernel end this process if one request takes long and nobody is left to end it."""
    try:
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(usage.ru_utime + usage.ru_stime) + _CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    except (ImportError, OSError, ValueError):
        return


def main() -> None:
    """Serve requests until standard input ends."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    sys.path.extend(sys.argv[1:])
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    gc.disable()  # modules are no garbage, and looking for some among them takes long
    pass_over_package()
    environment = make_environment()
    gc.freeze()
    gc.enable()
    limit_memory()
    write_message(answers, {"ready": True})
    while (request := read_message(requests)) is not None:
        limit_time()
        write_message(answers, answer(environment, request))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)
