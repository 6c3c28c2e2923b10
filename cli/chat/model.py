"""The model that answers in a chat: found, loaded while the user types, started again when it died, and let go.

Its process lives as long as the chat, and with it the KV cache: that is what makes the next turn cheap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.cli import early
from llmrun.cli.chat.loading import Loading
from llmrun.cli.loading import shown_loading
from llmrun.cli.progress import choose_progress
from llmrun.engines.client import WorkerClient
from llmrun.engines.plan import PlanRequest
from llmrun.engines.prepare import Prepared, prepare_next
from llmrun.engines.types import EngineName, Segment
from llmrun.engines.warm.flow import release
from llmrun.errors import EngineCrashedError, LlmrunError, NoUsableEngineError
from llmrun.models.types import RefKind

__all__ = ["ChatModel", "ModelRequest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """What was asked for when a model was named."""

    model: str
    engine: EngineName | None
    plan: PlanRequest
    draft: str | None
    keep_seconds: float | None
    offline: bool
    fallback: bool
    yes: bool
    quiet: bool


class ChatModel:
    """A model and the process that has it.

    Attributes:
        request: What was asked for.
        prepared: What came of it.
        worker: The process.
        has_failed: The model could not be loaded: nothing can be asked of the process.
    """

    def __init__(self, request: ModelRequest, prepared: Prepared) -> None:
        self.request = request
        self.prepared = prepared
        self.worker = prepared.worker or early.take_worker(prepared.plan.engine)
        self.has_failed = False
        self._context_length = 0
        self._loading: Loading | None = None
        self._load()

    def _load(self) -> None:
        self.worker.send_load(self.prepared.plan)
        self._loading = Loading(self.worker)

    @property
    def engine(self) -> EngineName:
        """What it runs on."""
        return self.prepared.plan.engine

    @property
    def name(self) -> str:
        """The model as it was typed; a path in full, so that it means the same in another folder."""
        ref = self.prepared.model.ref
        return str(Path(ref.name).expanduser().absolute()) if ref.kind is RefKind.PATH else self.request.model

    @property
    def short_name(self) -> str:
        """The model for people: of a path its last part."""
        ref = self.prepared.model.ref
        return self.prepared.model.path.name if ref.kind is RefKind.PATH else self.request.model

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together: as planned, and as the engine set it up once it is loaded."""
        return self._context_length or self.prepared.plan.context_length

    def wait(self, interrupt: int) -> int:
        """Return the context length as soon as the model is loaded; after a second of waiting, show how far it is.

        Raises:
            Interrupted: The descriptor became readable; the loading goes on.
            LlmrunError: It cannot be loaded.
        """
        if self._loading is not None:
            try:
                progress = choose_progress(quiet=self.request.quiet)
                with shown_loading(self.worker, self.prepared, progress) as report:
                    self._context_length = self._loading.wait(interrupt, report)
            except LlmrunError:
                self.has_failed = True
                raise
            self._loading.close()
            self._loading = None
        return self.context_length

    def count(self, segments: Sequence[Segment]) -> int:
        """Return how many tokens a prompt has; the model must be loaded."""
        return len(self.worker.tokenize(segments))

    def is_ready(self) -> bool:
        """Whether the process is there; it is not after a crash, or after it had to be ended."""
        return not self.worker.closed

    def restart(self) -> None:
        """Start a new process for the same plan, and have it load."""
        self._stop_listening()
        self.worker.close()
        self.worker = WorkerClient(self.prepared.plan.engine)
        self.has_failed = False
        self._load()

    def next_engine(self, error: LlmrunError) -> "ChatModel | None":
        """Return the same model on the next engine after one that could not load it; None if there is none."""
        wanted = isinstance(error, EngineCrashedError | NoUsableEngineError) and self.request.fallback
        if self._context_length or not wanted:
            return None
        following = prepare_next(self.prepared)
        if following is None:
            return None
        self.close()
        return ChatModel(self.request, following)

    def _stop_listening(self) -> None:
        if self._loading is not None:
            self._loading.close()
            self._loading = None

    def close(self) -> tuple[str, ...]:
        """End the process, or leave it for the next command if that was asked for. Returns notices."""
        self._stop_listening()
        return release(self.worker, self.prepared.target, self.request.keep_seconds)
