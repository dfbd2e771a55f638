"""Explore every interleaving of a few small programs over memory with store buffers.

A program is a generator that yields operations on shared words and is sent what they return, so
it reads like the code that it stands for. `explore` runs them in every order there is, kills them
wherever they may be killed, and lets each store reach memory as late as the memory model allows.
It ends with a `Verdict`: how many states there are, and how to get to a bad one.

A state is bad if a program says so (`fail`), if it is an end that the scene does not accept (a
sleeper that nobody wakes, most often), or if no good end can be reached from it any more.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

Program = Generator["Operation", Any, Hashable]


class Memory(enum.Enum):
    """When a store becomes visible to the other program."""

    SC = "sc"
    """At once."""
    TSO = "tso"
    """In program order, but after later loads of the same program (x86)."""
    PSO = "pso"
    """In any order that release and seq_cst stores leave, and after later loads."""


class Order(enum.IntEnum):
    """Of a store. Loads are in program order in all three models."""

    RELAXED = 0
    RELEASE = 1
    SEQ_CST = 2


class Verb(enum.Enum):
    LOAD = enum.auto()
    STORE = enum.auto()
    SWAP = enum.auto()
    SYSTEM_CALL = enum.auto()
    WAIT = enum.auto()
    FAIL = enum.auto()


@dataclass(frozen=True)
class Operation:
    """What a program does next.

    Attributes:
        verb: What it does.
        words: Which shared words; one, but for WAIT.
        value: What is stored.
        order: How.
    """

    verb: Verb
    words: tuple[str, ...]
    value: int = 0
    order: Order = Order.SEQ_CST

    def __str__(self) -> str:
        what = f"{self.verb.name.lower()} {' or '.join(self.words)}"
        return f"{what} = {self.value}" if self.verb in _WRITES else what


_WRITES = {Verb.STORE, Verb.SWAP, Verb.SYSTEM_CALL}


def load(word: str) -> Operation:
    return Operation(Verb.LOAD, (word,))


def store(word: str, value: int, order: Order = Order.SEQ_CST) -> Operation:
    return Operation(Verb.STORE, (word,), value, order)


def swap(word: str, value: int) -> Operation:
    """Exchange; returns the old value."""
    return Operation(Verb.SWAP, (word,), value)


def system_call(word: str, value: int) -> Operation:
    """Change a word that the kernel keeps, or the observer's notebook: seen at once.

    It does not push older stores of the program out, which is more than a real kernel allows.
    """
    return Operation(Verb.SYSTEM_CALL, (word,), value)


def wait(*words: str) -> Operation:
    """Sleep until one of the words is not 0."""
    return Operation(Verb.WAIT, words)


def fail(reason: str) -> Operation:
    """Say that something happened that must not."""
    return Operation(Verb.FAIL, (reason,))


# --- a program as an automaton -----------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """Where a program stands: before an operation, or at its end."""

    key: Hashable
    operation: Operation | None
    result: Hashable
    history: tuple[int, ...]


class _Automaton:
    """A program whose points are numbered as they are met.

    A generator cannot be copied, but where it stands can be told: by the instruction and the
    local variables of each frame. So each point is computed once, by running the program anew
    with what it was sent, and remembered. Programs must keep what they know in local variables
    that can be hashed, and nothing else on a frame's stack that these do not determine.
    """

    START = 0
    KILLED = -1

    def __init__(self, make: Callable[[], Program]) -> None:
        self._make = make
        self._numbers: dict[Hashable, int] = {}
        self._steps: dict[tuple[int, int], int] = {}
        self.points: list[_Point] = []
        self._run(())

    def step(self, number: int, value: int) -> int:
        """The point after this one, when its operation returns ``value``."""
        step = (number, value)
        if step not in self._steps:
            self._steps[step] = self._run((*self.points[number].history, value))
        return self._steps[step]

    def is_finished(self, number: int) -> bool:
        return number != self.KILLED and self.points[number].operation is None

    def result(self, number: int) -> Hashable:
        return "killed" if number == self.KILLED else self.points[number].result

    def _run(self, history: tuple[int, ...]) -> int:
        program = self._make()
        operation: Operation | None = None
        result: Hashable = None
        try:
            operation = next(program)
            for value in history:
                operation = program.send(value)
            key = _place(program)
        except StopIteration as stop:
            operation, result = None, stop.value
            key = ("finished", result)
        program.close()
        if key not in self._numbers:
            self._numbers[key] = len(self.points)
            self.points.append(_Point(key, operation, result, history))
        return self._numbers[key]


def _place(program: Any) -> Hashable:
    frames = []
    while program is not None:
        local = program.gi_frame.f_locals
        frames.append((program.gi_code.co_name, program.gi_frame.f_lasti, *sorted(local.items())))
        program = program.gi_yieldfrom
    return tuple(frames)


# --- the world -----------------------------------------------------------------------------------

Buffer = tuple[tuple[str, int, Order], ...]
"""Stores of one program that have not reached memory, oldest first."""


@dataclass(frozen=True)
class Scene:
    """Programs and what may happen to them.

    Attributes:
        programs: Make each of them.
        words: Every shared word, all 0 in the beginning.
        memory: The memory model.
        killable: Which of them may be killed, anywhere.
        gone: For each program the word that the kernel sets once it has ended or was killed.
        accepts: Whether an end is good: results of all ("killed" for one), and the words.
        names: What to call them.
    """

    programs: tuple[Callable[[], Program], ...]
    words: tuple[str, ...]
    memory: Memory
    killable: tuple[int, ...]
    gone: tuple[str, ...]
    accepts: Callable[..., bool]
    names: tuple[str, ...] = ("producer", "consumer")


@dataclass(frozen=True, slots=True)
class _State:
    points: tuple[int, ...]
    memory: tuple[int, ...]
    buffers: tuple[Buffer, ...]


@dataclass
class Verdict:
    """What an exploration found.

    Attributes:
        states: How many different states there are.
        bad: How many of them are bad.
        why: What is wrong with the first one found, by the shortest way.
        trace: That way.
    """

    states: int
    bad: int = 0
    why: str = ""
    trace: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.bad:
            return f"{self.states} states, none bad"
        way = "\n".join(self.trace)
        return f"{self.states} states, {self.bad} bad; the nearest: {self.why}\n{way}"


class _Explorer:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._index = {word: index for index, word in enumerate(scene.words)}
        self._programs = tuple(_Automaton(make) for make in scene.programs)
        self._names = scene.names

    def explore(self) -> Verdict:
        count = len(self._programs)
        start = _State((_Automaton.START,) * count, (0,) * len(self._index), ((),) * count)
        came_from: dict[_State, tuple[_State, str] | None] = {start: None}
        leads_to: dict[_State, list[_State]] = {}
        bad: dict[_State, str] = {}
        queue = deque([start])
        while queue:
            state = queue.popleft()
            if failure := self._failure(state):
                bad[state] = failure
                continue
            moves = list(self._moves(state))
            leads_to[state] = [after for _, after in moves]
            if not moves and not self._is_accepted(state):
                bad[state] = f"ends with {self._results(state)}, {self._words(state)}"
            for what, after in moves:
                if after not in came_from:
                    came_from[after] = (state, what)
                    queue.append(after)
        if not bad:
            bad = dict.fromkeys(self._hopeless(leads_to), "goes round for ever")
        verdict = Verdict(len(came_from), len(bad))
        if bad:
            first, verdict.why = next(iter(bad.items()))
            verdict.trace = _way_to(first, came_from)
        return verdict

    # What may happen next.

    def _moves(self, state: _State) -> Iterator[tuple[str, _State]]:
        for who in range(len(self._programs)):
            yield from self._steps(state, who)
            yield from self._drains(state, who)
            yield from self._deaths(state, who)

    def _steps(self, state: _State, who: int) -> Iterator[tuple[str, _State]]:
        program = self._programs[who]
        number = state.points[who]
        if number == _Automaton.KILLED or (operation := program.points[number].operation) is None:
            return
        done = self._do(state, who, operation)
        if done is None:
            return
        value, after = done
        points = _with(state.points, who, program.step(number, value))
        yield f"{self._names[who]}: {operation} -> {value}", replace(after, points=points)

    def _do(self, state: _State, who: int, operation: Operation) -> tuple[int, _State] | None:
        """What an operation returns and leaves, or None if it cannot be done now."""
        if operation.verb is Verb.WAIT:
            ready = any(self._read(state, who, word) for word in operation.words)
            return (0, state) if ready else None
        word, value = operation.words[0], operation.value
        if operation.verb is Verb.LOAD:
            return self._read(state, who, word), state
        if operation.verb is Verb.SYSTEM_CALL:
            return 0, self._write(state, word, value)
        if operation.verb is Verb.SWAP:
            state = self._drained(state, who)
            return self._read(state, who, word), self._write(state, word, value)
        if self._scene.memory is Memory.SC or operation.order is Order.SEQ_CST:
            return 0, self._write(self._drained(state, who), word, value)
        buffer = (*state.buffers[who], (word, value, operation.order))
        return 0, replace(state, buffers=_with(state.buffers, who, buffer))

    def _drains(self, state: _State, who: int) -> Iterator[tuple[str, _State]]:
        buffer = state.buffers[who]
        for at, (word, value, order) in enumerate(buffer):
            if at > 0 and self._scene.memory is Memory.TSO:
                return
            if at > 0 and (order is Order.RELEASE or word in {older[0] for older in buffer[:at]}):
                continue
            rest = buffer[:at] + buffer[at + 1 :]
            after = self._write(state, word, value)
            after = replace(after, buffers=_with(state.buffers, who, rest))
            yield f"{self._names[who]}'s {word} = {value} reaches memory", after

    def _deaths(self, state: _State, who: int) -> Iterator[tuple[str, _State]]:
        number = state.points[who]
        is_over = number == _Automaton.KILLED or self._programs[who].is_finished(number)
        if not is_over and who in self._scene.killable:
            points = _with(state.points, who, _Automaton.KILLED)
            yield f"{self._names[who]} is killed", replace(state, points=points)
        gone = self._scene.gone[who]
        if is_over and not state.buffers[who] and not state.memory[self._index[gone]]:
            yield f"the kernel tells that {self._names[who]} is gone", self._write(state, gone, 1)

    # Memory.

    def _read(self, state: _State, who: int, word: str) -> int:
        for buffered, value, _ in reversed(state.buffers[who]):
            if buffered == word:
                return value
        return state.memory[self._index[word]]

    def _write(self, state: _State, word: str, value: int) -> _State:
        at = self._index[word]
        return replace(state, memory=(*state.memory[:at], value, *state.memory[at + 1 :]))

    def _drained(self, state: _State, who: int) -> _State:
        for word, value, _ in state.buffers[who]:
            state = self._write(state, word, value)
        return replace(state, buffers=_with(state.buffers, who, ()))

    # Judgement.

    def _failure(self, state: _State) -> str:
        for program, number in zip(self._programs, state.points, strict=True):
            operation = None if number < 0 else program.points[number].operation
            if operation is not None and operation.verb is Verb.FAIL:
                return operation.words[0]
        return ""

    def _results(self, state: _State) -> tuple[Hashable, ...]:
        ends = zip(self._programs, state.points, strict=True)
        return tuple(program.result(number) for program, number in ends)

    def _words(self, state: _State) -> dict[str, int]:
        return dict(zip(self._scene.words, state.memory, strict=True))

    def _is_accepted(self, state: _State) -> bool:
        for program, number in zip(self._programs, state.points, strict=True):
            if number != _Automaton.KILLED and not program.is_finished(number):
                return False
        return self._scene.accepts(*self._results(state), self._words(state))

    def _hopeless(self, leads_to: dict[_State, list[_State]]) -> list[_State]:
        """The states from which no end is reached any more."""
        comes_from: dict[_State, list[_State]] = {}
        for state, following in leads_to.items():
            for after in following:
                comes_from.setdefault(after, []).append(state)
        hopeful = {state for state, following in leads_to.items() if not following}
        queue = list(hopeful)
        while queue:
            for before in comes_from.get(queue.pop(), ()):
                if before not in hopeful:
                    hopeful.add(before)
                    queue.append(before)
        return [state for state in leads_to if state not in hopeful]


def _with(all_: tuple[Any, ...], who: int, value: Any) -> tuple[Any, ...]:
    return (*all_[:who], value, *all_[who + 1 :])


def _way_to(state: _State, came_from: dict[_State, tuple[_State, str] | None]) -> list[str]:
    way = []
    while (step := came_from[state]) is not None:
        state, what = step
        way.append(what)
    return way[::-1]


def explore(scene: Scene) -> Verdict:
    """Look at every state that the programs can get into."""
    return _Explorer(scene).explore()
