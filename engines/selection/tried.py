"""Judge the engines for a model, and try the one that the answer rests on, if it was never tried on this machine.

Trying an engine takes from half a second to more than half a minute, so of the engines that were never tried only
those are that the answer depends on: the one that would be chosen, or was asked for, and one that would be better
but for an architecture that llmrun's table, and not the engine itself, says it lacks. What a trial finds can turn the
choice to another engine, which is tried then.
"""

from collections.abc import Callable
from dataclasses import replace

from llmrun.engines.installed.facts import CRASHES, UNKNOWN, EngineFacts
from llmrun.engines.installed.health import ASKED_ENGINES
from llmrun.engines.selection.judgement import Judgement, judge
from llmrun.engines.selection.reasons import ReasonCode
from llmrun.engines.selection.setting import Setting
from llmrun.engines.selection.subject import Subject
from llmrun.engines.types import EngineName

__all__ = ["judge_tried"]

_ASKABLE = frozenset({ReasonCode.ARCHITECTURE, ReasonCode.DROPPED_BY_VERSION, ReasonCode.REMOTE_CODE})


def judge_tried(
    find: Callable[[Setting], Subject],
    setting: Setting,
    check: Callable[[EngineName, EngineFacts], EngineFacts],
    *,
    with_speed: bool = False,
) -> tuple[Judgement, Setting]:
    """Return a judgement that rests on engines that were tried, and the setting with what the trials showed.

    Args:
        find: Finds the model; asked again after a crash, because a variant is chosen for the engines that work.
        setting: Where it would run.
        check: Tries an engine (see `health.check_health`); each is tried once at most.
        with_speed: Forecast the speed too.

    Raises:
        LlmrunError: What `find` and `judge` raise.
    """
    tried: set[EngineName] = set()
    subject = find(setting)
    while True:
        judged = judge(subject, setting, with_speed=with_speed)
        engine = _next_to_try(judged, setting, tried)
        if engine is None:
            return judged, setting
        tried.add(engine)
        found = check(engine, setting.engines[engine])
        setting = replace(setting, engines={**setting.engines, engine: found})
        if found.health == CRASHES:
            subject = find(setting)


def _next_to_try(judged: Judgement, setting: Setting, tried: set[EngineName]) -> EngineName | None:
    for verdict in judged.verdicts:  # the best for this format first
        engine = verdict.engine
        facts = setting.engines.get(engine)
        if setting.forced not in (None, engine) or engine in tried or facts is None or not facts.installed:
            continue
        if engine is judged.chosen:
            return engine if facts.health == UNKNOWN else None
        codes = {reason.code for reason in verdict.objections}
        may_know_better = engine in ASKED_ENGINES and facts.architectures_source != "installed"
        if may_know_better and codes and codes <= _ASKABLE:
            return engine
    return None
