"""When to start again what has died, and when to give up: a state machine without a clock."""

from __future__ import annotations

import collections
import random
from dataclasses import dataclass, field

__all__ = ["Restarts", "Schedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How restarts are spaced, and how many there may be. Times are in seconds.

    The first restart comes at once. Each further one of the same spell waits ``factor`` times
    as long as the one before, from ``first_s`` up to ``longest_s``. Who has lived for
    ``calm_s`` begins anew.

    Attributes:
        most: How many restarts there may be within ``within_s``; one more is too many. None
            for any number.
        within_s: The time in which they are counted.
        first_s: The first pause.
        longest_s: The longest one.
        factor: How much each pause is longer than the one before.
        jitter: The part of a pause that is left to chance, from 0 to 1, so that many that died
            together do not come back together.
        calm_s: How long one has to live for its death to be the first one again.
    """

    most: int | None = 5
    within_s: float = 60.0
    first_s: float = 0.1
    longest_s: float = 10.0
    factor: float = 2.0
    jitter: float = 0.2
    calm_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: It does not.
        """
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low:g} and {high:g}, not {value:g}")
        if self.most is not None and self.most < 0:
            raise ValueError(f"most must be 0 or more, not {self.most}")
        if self.longest_s < self.first_s:
            raise ValueError(
                f"longest_s must be at least first_s, {self.first_s:g}, not {self.longest_s:g}"
            )


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("within_s", 0.001, 1e6),
    ("first_s", 0, 3600),
    ("longest_s", 0, 3600),
    ("factor", 1, 100),
    ("jitter", 0, 1),
    ("calm_s", 0, 1e6),
)


@dataclass(slots=True)
class Restarts:
    """The deaths of one place, and what follows from them.

    Attributes:
        schedule: The rules.
        chance: Gives numbers from 0 to 1 for the jitter.
    """

    schedule: Schedule
    chance: random.Random = field(default_factory=random.Random)
    _restarts: collections.deque[float] = field(default_factory=collections.deque)
    _spell: int = 0
    """Restarts since the last calm."""

    def died(self, now: float, lived_s: float) -> float | None:
        """What to do about a death.

        Args:
            now: The time, by any clock that never goes back.
            lived_s: How long the dead one had lived.

        Returns:
            How many seconds to wait before the next start; None to give up.
        """
        if lived_s >= self.schedule.calm_s:
            self._spell = 0
        while self._restarts and self._restarts[0] <= now - self.schedule.within_s:
            self._restarts.popleft()
        if self.schedule.most is not None:
            if len(self._restarts) >= self.schedule.most:
                return None
            self._restarts.append(now)
        pause_s = self._pause_s()
        self._spell += 1
        return pause_s

    def _pause_s(self) -> float:
        if self._spell == 0:
            return 0.0
        rules = self.schedule
        pause_s = rules.first_s
        for _ in range(self._spell - 1):  # a power of it may be beyond a float
            if pause_s >= rules.longest_s:
                break
            pause_s *= rules.factor
            if rules.factor == 1:
                break
        return min(pause_s, rules.longest_s) * (1 - rules.jitter * self.chance.random())
