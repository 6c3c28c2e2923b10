"""The weights, read while the command line is still being understood.

Importing what parses the command, judges the engines and makes a plan takes longer than the engine's process needs to
be ready. Meanwhile it can load the model as nearly every plan wants it. Nothing is decided here: the header is checked
as always, a model that takes much of the free memory waits for its plan, and whatever is wrong is left for the command
to find and to say.
"""

from llmrun.engines.client import WorkerClient
from llmrun.errors import LlmrunError

__all__ = ["preload"]

_SHARE_OF_FREE_MEMORY = 0.25


def preload(worker: WorkerClient, reference: str) -> bool:
    """Have a worker load the GGUF file that a reference means, if it is on this disk and whole.

    Returns:
        Whether the file is one, and has a template for its prompts.
    """
    from llmrun.engines.selection.headers import read_gguf_facts
    from llmrun.hardware.memory import probe_memory
    from llmrun.models.reference import parse_reference
    from llmrun.models.resolver.resolve import find_on_disk

    try:
        model = find_on_disk(parse_reference(reference))
        if model is None or model.path.suffix != ".gguf":
            return False
        info = read_gguf_facts(model.path).info
    except LlmrunError:
        return False
    size_bytes = sum(file.size_bytes for file in info.files)
    if size_bytes <= _SHARE_OF_FREE_MEMORY * probe_memory()[0].available_bytes:
        worker.preload(str(model.path))
    return info.chat_template is not None
