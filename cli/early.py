"""Processes that a command will need, started before it is even parsed.

The engine's process takes longer to be ready than everything this process does before it can use it, so it is started
first. A command that turns out not to need it closes it, and it ends by itself when this process does.

Where a warm worker waits that was loaded under the same name (`engines/warm`), the command most likely finds its
model in it. Then what it waits for is the process that renders the chat template, and that is started instead. To look
into the folder of the warm workers takes a tenth of a millisecond.

A model that is on this disk is loaded at once (`engines/preload`), and if it has a chat template, the process that
renders it is started too.
"""

TYPE_CHECKING = False  # as in `typing`, which takes five milliseconds to import
if TYPE_CHECKING:
    from llmrun.engines.client import WorkerClient
    from llmrun.engines.types import EngineName
    from llmrun.engines.worker_process import StartedWorker
    from llmrun.models.prompt.render import TemplateRenderer

__all__ = ["begin", "close", "lend_renderer", "start", "take_renderer", "take_worker"]

_LIKELIEST = "llama-cpp"
_begun: "list[StartedWorker]" = []
_started: "list[WorkerClient]" = []
_renderers: "list[TemplateRenderer]" = []


def begin(arguments: list[str]) -> None:
    """Start the process that most commands need, before anything else is imported; `start` does the rest."""
    if not _needs_engine(arguments) or _engine_of(arguments) != _LIKELIEST or _seems_loaded(arguments):
        return
    from llmrun.engines.worker_process import StartedWorker
    from llmrun.errors import LlmrunError

    try:
        _begun.append(StartedWorker(_LIKELIEST))
    except LlmrunError:
        return  # `start` tries again, and says why


def start(arguments: list[str]) -> None:
    """Start what the command line seems to ask for; it is only looked at, not parsed."""
    if not _needs_engine(arguments):
        return
    if not _begun and _seems_loaded(arguments):
        _start_renderer(arguments)
        return
    from llmrun.engines.client import WorkerClient
    from llmrun.engines.client_process import ProcessLink
    from llmrun.engines.types import EngineName

    engine = _engine_of(arguments)
    if engine not in EngineName.__members__.values():
        return
    link = ProcessLink(_begun.pop()) if _begun else None
    worker = WorkerClient(EngineName(engine), link)
    _started.append(worker)
    if worker.engine is EngineName.LLAMA_CPP and "--dry-run" not in arguments:
        from llmrun.engines.preload import preload

        if preload(worker, arguments[1]):
            _start_renderer(arguments)


def _needs_engine(arguments: list[str]) -> bool:
    wanted = arguments[:1] in (["run"], ["chat"]) and len(arguments) > 1 and not arguments[1].startswith("-")
    return wanted and not {"--help", "-h", "--list"} & set(arguments)


def _seems_loaded(arguments: list[str]) -> bool:
    """Whether a warm worker waits that has the model."""
    import os

    from llmrun.engines.warm.place import runtime_place

    if not os.path.isdir(runtime_place()):  # noqa: PTH112 - pathlib takes five milliseconds
        return False
    from llmrun.engines.warm.folder import seems_loaded

    return seems_loaded(arguments[1:])


def _engine_of(arguments: list[str]) -> str:
    return _asked_for(arguments) or _likely_engine(arguments[1])


def _asked_for(arguments: list[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == "--engine" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--engine="):
            return argument.removeprefix("--engine=")
    import os

    return os.environ.get("LLMRUN_ENGINE")


def _likely_engine(argument: str) -> str:
    """Return the engine that will most likely be chosen for a model, from what its name is on this disk."""
    import os

    if os.path.isdir(argument):  # noqa: PTH112 - pathlib takes five milliseconds
        return "vllm" if os.path.exists("/dev/nvidiactl") else "pytorch"  # noqa: PTH110
    if os.path.isfile(argument) and _is_legacy(argument):  # noqa: PTH113
        return "ctransformers"
    return _LIKELIEST


def _is_legacy(path: str) -> bool:
    import contextlib

    with contextlib.suppress(OSError), open(path, "rb") as file:  # noqa: PTH123
        return file.read(4) in (b"lmgg", b"fmgg", b"tjgg", b"ccgg")
    return False


def _start_renderer(arguments: list[str]) -> None:
    if "--raw" in arguments or _renderers:
        return
    from llmrun.models.prompt.render import TemplateRenderer

    _renderers.append(TemplateRenderer())


def take_worker(engine: "EngineName") -> "WorkerClient":
    """Return the worker for `engine`: the one that was started early, or a new one. The caller closes it."""
    from llmrun.engines.client import WorkerClient

    while _started:
        worker = _started.pop()
        if worker.engine is engine:
            return worker
        worker.close()
    return WorkerClient(engine)


def take_renderer() -> "TemplateRenderer":
    """Return the renderer of chat templates: the one that was started early, or a new one. The caller closes it."""
    from llmrun.models.prompt.render import TemplateRenderer

    return _renderers.pop() if _renderers else TemplateRenderer()


def lend_renderer(renderer: "TemplateRenderer") -> None:
    """Take over a renderer that was started before this command was."""
    _renderers.append(renderer)


def close() -> None:
    """End what was started and not taken."""
    while _begun:
        from llmrun.engines.client_process import ProcessLink

        ProcessLink(_begun.pop()).end()
    while _started:
        _started.pop().close()
    while _renderers:
        _renderers.pop().close()
