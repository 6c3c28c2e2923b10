"""Guessing ahead: where guesses come from in the text itself, and how many are worth checking. No engine in here.

A model can check several guessed tokens in one batch. Where decoding is bound by reading the weights, a batch costs
little more than a single token; where it is bound by arithmetic, nearly as much as its tokens one by one. So the length
of a guess follows from what batches of each size were seen to take here, and from how often guesses of its kind were
right. What that cannot exclude, a bad run, is bounded by a ledger: a guess is checked only if, were all of it wrong, no
more would be lost in total than what was won before, 1% of the time, and two and a half tokens.

Guesses from the text cost nothing to make. So they are made all the time and compared with what the model says, checked
or not: whether they have become good is known without paying for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MOST_GUESSES", "Guess", "GuessController", "TextLookup"]

MOST_GUESSES = 24  # per batch; with more, the time per token no longer falls
_SHORTEST_MATCH = 2
_LONGEST_MATCH = 16
_CLASSES = (3, 5, 9)  # match lengths at which a guess is of the next kind
DRAFT_KIND = len(_CLASSES) + 1
_EXPECTED = ((1.0, 2.0), (2.0, 6.0), (3.0, 12.0), (6.0, 24.0), (3.0, 3.0))
"""By kind: how many first tokens are right for one that is wrong, and how many later ones, before anything is known."""
_LEAST_GAIN = 1.03
_FORGETTING = 0.93
_SMOOTHING_DOWN = 0.5
_SMOOTHING_UP = 0.1
_SPEND = 0.01
_FREE_TOKENS = 2.5
_MOST_SAVED_TOKENS = 20.0
_FIRST_SLOPE = 0.5  # cost of one more token in a batch, in single tokens, before it was measured
_HOPE = 0.6  # or batches larger than any so far would never be tried
_FIRST_PROBE_STEPS = 32
_LAST_PROBE_STEPS = 512


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may come next, and what kind of guess that is: kinds are right unequally often."""

    tokens: list[int]
    kind: int


class TextLookup:
    """Finds what followed the last time that the text ended like this.

    An index of all pairs of neighbours leads to earlier places; of the two latest, the one whose past agrees longest
    with the present is taken.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, int], tuple[int, int]] = {}  # pair → the two latest places behind it

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take in what the text has grown by."""
        text = self._tokens
        for token in tokens:
            if len(text) >= _SHORTEST_MATCH:
                pair = (text[-2], text[-1])
                self._after[pair] = (len(text), self._after.get(pair, (0, 0))[0])
            text.append(token)

    def guess(self, most: int) -> Guess | None:
        """Return at most `most` tokens that may come next, or None if the text never ended like this before."""
        text = self._tokens
        if len(text) < _SHORTEST_MATCH or most < 1:
            return None
        places = self._after.get((text[-2], text[-1]), ())
        best = max(((self._agreement(place), place) for place in places if place), default=None)
        if best is None:
            return None
        length, place = best
        return Guess(text[place : place + most], sum(length >= least for least in _CLASSES))

    def _agreement(self, place: int) -> int:
        """Return over how many tokens the past of a place is that of the end of the text."""
        text, length = self._tokens, _SHORTEST_MATCH
        while length < min(_LONGEST_MATCH, place) and text[place - 1 - length] == text[-1 - length]:
            length += 1
        return length


@dataclass(slots=True)
class _Record:
    """How often guesses of one kind were right: the first token, and each one after a right one."""

    first: list[float]  # right, wrong
    later: list[float]

    def learn(self, guessed: int, right: int) -> None:
        """Take in that the first `right` of `guessed` tokens were right."""
        if guessed < 1:
            return
        self.first[:] = [value * _FORGETTING for value in self.first]
        self.first[0 if right else 1] += 1
        if right:
            self.later[:] = [value * _FORGETTING for value in self.later]
            self.later[0] += right - 1
            self.later[1] += right < guessed

    def expected(self, guessed: int) -> list[float]:
        """Return how many tokens a batch is expected to give with 0, 1, … `guessed` guesses."""
        chance, total = self.first[0] / sum(self.first), 1.0
        later = self.later[0] / sum(self.later)
        expected = [total]
        for _ in range(guessed):
            total += chance
            chance *= later
            expected.append(total)
        return expected


class GuessController:
    """Decides how many guessed tokens go into a batch.

    Args:
        always: Check guesses from the text whether it pays or not.
    """

    def __init__(self, *, always: bool = False) -> None:
        self._always = always
        self._records = [_Record([first, 1.0], [later, 1.0]) for first, later in _EXPECTED]
        self._seconds: dict[int, float] = {}  # of a batch, by its tokens
        self._guess_seconds = 0.0  # to make one guess of the draft model
        self._elapsed = 0.0
        self._balance = 0.0
        self._idle = 0
        self._probe_steps = _FIRST_PROBE_STEPS
        self._shadow: Guess | None = None
        self._shadow_right = 0

    def choose(self, kind: int, most: int) -> int:
        """Return how many tokens of a guess to check, 0 for none."""
        single = self._seconds.get(1)
        unasked = min(most, 4) if self._always and kind != DRAFT_KIND else 0
        if most < 1 or single is None:  # what one token costs has to be known first
            return unasked
        record = self._records[kind]
        expected = record.expected(most)
        each = self._guess_seconds if kind == DRAFT_KIND else 0.0
        best, gain = 0, _LEAST_GAIN
        for count in range(1, most + 1):
            cost = self._cost(count + 1, _HOPE) + count * each
            rate = expected[count] * single / cost
            at_worst = self._cost(count + 1) + count * each - single
            if rate > gain and self._may_lose(at_worst, single):
                best, gain = count, rate
        return best or unasked or self._probe(kind, most, each, single)

    def _probe(self, kind: int, most: int, each: float, single: float) -> int:
        """Now and then check a guess of the draft model that does not seem to pay: nothing else tells if it would."""
        self._idle += 1
        count = min(most, 2)
        if kind != DRAFT_KIND or self._idle < self._probe_steps:
            return 0
        if not self._may_lose(self._cost(count + 1) + count * each - single, single):
            return 0
        self._idle = 0
        self._probe_steps = min(2 * self._probe_steps, _LAST_PROBE_STEPS)
        return count

    def _may_lose(self, seconds: float, single: float) -> bool:
        return self._always or self._balance - seconds >= -(_FREE_TOKENS * single + _SPEND * self._elapsed)

    def _cost(self, tokens: int, hope: float = 1.0) -> float:
        """Return the seconds that a batch takes: as measured, or as the nearest measured ones suggest.

        With `hope` below 1, batches larger than any so far are taken to be cheaper per token.
        """
        known = self._seconds
        if tokens in known:
            return known[tokens]
        single = known[1]
        below = max(size for size in known if size < tokens)
        above = min((size for size in known if size > tokens), default=None)
        if above is not None:
            share = (tokens - below) / (above - below)
            return known[below] + share * (known[above] - known[below])
        slope = hope * (known[below] - single) / (below - 1) if below > 1 else _FIRST_SLOPE * single
        return known[below] + (tokens - below) * max(slope, 0.0)

    def observe(self, guess: Guess | None, right: int, seconds: float, guess_seconds: float = 0.0) -> None:
        """Take in what a batch took, with the guessed tokens of which `right` were right.

        Args:
            guess: What was checked; None for a single token.
            right: How many of its tokens were right.
            seconds: Time of the batch and of choosing its tokens.
            guess_seconds: Time that a draft model took for the guess.
        """
        guessed = len(guess.tokens) if guess else 0
        self._elapsed += seconds + guess_seconds
        before = self._seconds.get(guessed + 1)
        if before is None:
            self._seconds[guessed + 1] = seconds
        else:  # a batch that was interrupted by other programs says little about the next one
            self._seconds[guessed + 1] += (_SMOOTHING_DOWN if seconds < before else _SMOOTHING_UP) * (
                min(seconds, 2 * before) - before
            )
        if guess is None:
            return
        self._records[guess.kind].learn(guessed, right)
        if guess.kind == DRAFT_KIND:
            each = guess_seconds / guessed
            self._guess_seconds += (each - self._guess_seconds) * (_SMOOTHING_UP if self._guess_seconds else 1)
        single = self._seconds.get(1)
        if single is not None:
            won = (right + 1) * single - seconds - guess_seconds
            self._balance = min(self._balance + won, _MOST_SAVED_TOKENS * single)
            if won > 0:
                self._probe_steps = _FIRST_PROBE_STEPS

    def charge(self, seconds: float) -> None:
        """Take in time that was lost to finding something out."""
        self._elapsed += seconds
        self._balance -= seconds

    def watch(self, guess: Guess | None, token: int) -> None:
        """Compare what a guess from the text would have been, had it been checked, with the token that came."""
        if self._shadow is None:
            self._shadow, self._shadow_right = guess, 0
        shadow = self._shadow
        if shadow is None:
            return
        if token == shadow.tokens[self._shadow_right]:
            self._shadow_right += 1
            if self._shadow_right < len(shadow.tokens):
                return
        self._records[shadow.kind].learn(len(shadow.tokens), self._shadow_right)
        self._shadow = None

    def forget_watched(self) -> None:
        """Give up the comparison that is under way, because a guess was checked instead."""
        self._shadow = None
