"""Check if the work of Python's ``re`` for a regular expression is linear in the length of the text.

Python's engine backtracks, so a pattern takes more than linear time exactly where it can read one text in a growing
number of ways before it fails. :func:`verdict` looks for such a text in the pattern's automaton:

- *exponential*: a state that can be left and reached again by the same word in two ways (``(a|a)*b``);
- *polynomial*: two states, each with a loop over the same word, and a way over that word from one to the other
  (``a*a*b``). Searching adds a loop of its own in front, since it begins again at each place (``\\w+@``).

These are the criteria EDA and IDA of Weber and Seidl, "On the degree of ambiguity of finite automata" (1991). States
from which a match is certain are left out, because the engine never comes back to what lies before them.

:func:`steps` counts what a backtracking engine does with one text. It is slow, and it is the judge of the checker.

A bounded repetition stands for two or three of its rounds in the automaton: what repeats without end is what counts.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

_parser = import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
_compiler = import_module("re._compiler" if sys.version_info >= (3, 11) else "sre_compile")

LINEAR = "linear"
POLYNOMIAL = "polynomial"
EXPONENTIAL = "exponential"

#: One character of each kind that patterns distinguish: all Latin ones, and some others.
_UNIVERSE = [chr(code) for code in range(0x250)] + list(
    "ΑαжК\u0660\u2028\u3000\uff10漢€„“”…\u212a\U0001f600\udc80\u0130\u0131"
)
#: The place before the first and behind the last character.
_EDGE = ""
#: A repetition with a bound is written out exactly up to this many instructions; the automaton takes three rounds.
_ROUNDS = 3

CHAR, SPLIT, JUMP, LOOK, EDGE, BACK, OPEN, CLOSE, LOOP, MATCH, FAIL = range(11)
Instruction = tuple[Any, ...]


class Program(NamedTuple):
    """A pattern as a backtracking machine runs it."""

    code: list[Instruction]
    #: The sets of characters that it distinguishes, each as a predicate.
    sets: list[Callable[[str], bool]]


class _Builder:
    def __init__(self, tree: Any, *, rounds: int | None) -> None:
        self.state = tree.state
        #: None: repetitions are written out as they are.
        self.rounds = rounds
        self.code: list[Instruction] = []
        self.sets: list[Callable[[str], bool]] = []
        self.groups: dict[int, tuple[Any, int]] = {}

    def emit(self, *instruction: Any) -> int:
        self.code.append(instruction)
        return len(self.code) - 1

    def question(self, node: Any, flags: int) -> int:
        compiled = _compiler.compile(_parser.SubPattern(self.state, [node]), flags & ~re.VERBOSE)
        self.sets.append(lambda character: compiled.match(character) is not None)
        return len(self.sets) - 1

    def build(self, items: Any, flags: int) -> None:
        for node in items:
            self.node(node, flags)

    def node(self, node: Any, flags: int) -> None:
        kind, value = str(node[0]), node[1]
        if kind in ("LITERAL", "NOT_LITERAL", "IN", "ANY", "RANGE"):
            self.emit(CHAR, self.question(node, flags))
        elif kind == "SUBPATTERN":
            group, added, removed, body = value
            inner = (flags | added) & ~removed
            if group is not None:
                self.groups[group] = body, inner
                self.emit(OPEN, group)
            self.build(body, inner)
            if group is not None:
                self.emit(CLOSE, group)
        elif kind == "BRANCH":
            ends = []
            for branch in value[1][:-1]:
                split = self.emit(SPLIT, 0, 0)
                self.build(branch, flags)
                ends.append(self.emit(JUMP, 0))
                self.code[split] = (SPLIT, split + 1, len(self.code))
            self.build(value[1][-1], flags)
            for end in ends:
                self.code[end] = (JUMP, len(self.code))
        elif kind in ("MAX_REPEAT", "MIN_REPEAT"):
            self.repeat(*value, lazy=kind == "MIN_REPEAT", flags=flags)
        elif kind in ("ASSERT", "ASSERT_NOT"):
            self.look(*value, negative=kind == "ASSERT_NOT", flags=flags)
        elif kind == "AT":
            self.emit(EDGE, str(value), bool(flags & re.MULTILINE), bool(flags & re.ASCII))
        elif kind == "GROUPREF":
            self.emit(BACK, value)
        else:
            raise NotImplementedError(
                f"{kind} is not known to the checker: teach it, or write the pattern without it"
            )

    def repeat(self, least: int, most: Any, body: Any, *, lazy: bool, flags: int) -> None:
        endless = most is _parser.MAXREPEAT
        if self.rounds is not None:
            least = min(least, self.rounds - 1)
            most = most if endless else min(most, self.rounds)
        for _ in range(least):
            self.build(body, flags)
        if endless:
            split = self.emit(SPLIT, 0, 0)
            self.emit(LOOP, split)
            self.build(body, flags)
            self.emit(JUMP, split)
            self.choose(split, split + 1, len(self.code), lazy)
            return
        splits = []
        for _ in range(most - least):
            splits.append(self.emit(SPLIT, 0, 0))
            self.build(body, flags)
        for split in splits:
            self.choose(split, split + 1, len(self.code), lazy)

    def choose(self, split: int, inside: int, behind: int, lazy: bool) -> None:
        self.code[split] = (SPLIT, behind, inside) if lazy else (SPLIT, inside, behind)

    def look(self, direction: int, body: Any, *, negative: bool, flags: int) -> None:
        single = _single(body)
        if single is not None:
            group, added, removed, node = single
            self.emit(LOOK, direction, negative, self.question(node, (flags | added) & ~removed), None)
            return
        inner = _Builder(body, rounds=self.rounds)
        inner.state = self.state
        inner.groups = self.groups
        inner.build(body, flags)
        inner.emit(MATCH)
        self.emit(LOOK, direction, negative, None, Program(inner.code, inner.sets), body.getwidth()[0])


def _single(body: Any) -> tuple[None, int, int, Any] | None:
    """The one character that a look ahead or back asks for."""
    if len(body) != 1:
        return None
    node = body[0]
    if str(node[0]) == "SUBPATTERN" and len(node[1][3]) == 1 and node[1][0] is None:
        return None if _single(node[1][3]) is None else (None, node[1][1], node[1][2], node[1][3][0])
    return (None, 0, 0, node) if str(node[0]) in ("LITERAL", "NOT_LITERAL", "IN", "ANY", "RANGE") else None


def program(pattern: str, flags: int = 0, *, rounds: int | None = None) -> Program:
    """The pattern as a program; ``rounds`` is how many rounds a bounded repetition is given at most."""
    tree = _parser.parse(pattern, flags)
    builder = _Builder(tree, rounds=rounds)
    builder.build(tree, tree.state.flags | flags)
    builder.emit(MATCH)
    return Program(builder.code, builder.sets)


# ----- counting


def _is_word(character: str, ascii_only: bool) -> bool:
    return character != _EDGE and re.match(r"\w", character, re.ASCII if ascii_only else 0) is not None


def _holds(edge: str, multiline: bool, ascii_only: bool, before: str, behind: str, last: bool) -> bool:
    """Whether a place between two characters is such an edge; ``last``: nothing comes after ``behind``."""
    if edge in ("AT_BEGINNING_STRING",) or (edge == "AT_BEGINNING" and not multiline):
        return before == _EDGE
    if edge == "AT_BEGINNING":
        return before in (_EDGE, "\n")
    if edge == "AT_END_STRING":
        return behind == _EDGE
    if edge == "AT_END":
        return behind == _EDGE or (behind == "\n" and (multiline or last))
    boundary = _is_word(before, ascii_only) != _is_word(behind, ascii_only)
    return boundary if edge == "AT_BOUNDARY" else not boundary


def _run(prog: Program, text: str, start: int, most: int, *, full: bool = False) -> tuple[int | None, int]:
    """Where a match that begins at ``start`` ends, and how many steps it took to know."""
    code, sets = prog
    end = len(text)
    steps = 0
    stack: list[tuple[int, int, dict[int, tuple[int, int]], dict[int, int]]] = [(0, start, {}, {})]
    while stack:
        pc, position, groups, entered = stack.pop()
        while True:
            steps += 1
            if steps > most:
                return None, steps
            kind, *operands = code[pc]
            if kind == CHAR:
                if position == end or not sets[operands[0]](text[position]):
                    break
                position += 1
                pc += 1
            elif kind == SPLIT:
                stack.append((operands[1], position, groups, entered))
                pc = operands[0]
            elif kind == LOOP:
                # An empty round is the last one.
                if entered.get(operands[0]) == position:
                    break
                entered = {**entered, operands[0]: position}
                pc += 1
            elif kind == JUMP:
                pc = operands[0]
            elif kind == OPEN:
                groups = {**groups, operands[0]: (position, -1)}
                pc += 1
            elif kind == CLOSE:
                groups = {**groups, operands[0]: (groups[operands[0]][0], position)}
                pc += 1
            elif kind == BACK:
                left, right = groups.get(operands[0], (0, -1))
                if right < left or not text.startswith(text[left:right], position):
                    break
                steps += right - left
                position += right - left
                pc += 1
            elif kind == EDGE:
                before = text[position - 1] if position else _EDGE
                behind = text[position] if position < end else _EDGE
                if not _holds(*operands, before, behind, position + 1 == end):  # type: ignore[call-arg]
                    break
                pc += 1
            elif kind == LOOK:
                direction, negative, single, inner, *width = operands
                if single is not None:
                    at = position if direction > 0 else position - 1
                    found = 0 <= at < end and sets[single](text[at])
                else:
                    at = position if direction > 0 else position - width[0]
                    place, more = (None, 1) if at < 0 else _run(inner, text, at, most - steps)
                    steps += more
                    found = place is not None
                if found is negative:
                    break
                pc += 1
            elif kind == MATCH:
                if full and position != end:
                    break
                return position, steps
            else:
                break
    return None, steps


def steps(pattern: str, flags: int, method: str, text: str, most: int = 10**7) -> int:
    """What a backtracking engine does for ``method`` (search, sub, match, ...) of ``text``, in steps."""
    prog = _whole_program(pattern, flags)
    if method in ("match", "fullmatch"):
        return _run(prog, text, 0, most, full=method == "fullmatch")[1]
    total = position = 0
    while position <= len(text) and total <= most:
        place, more = _run(prog, text, position, most - total)
        total += more
        if place is None:
            position += 1
        elif method == "search":
            break
        else:
            position = max(place, position + 1)
    return total


@lru_cache(maxsize=64)
def _whole_program(pattern: str, flags: int) -> Program:
    return program(pattern, flags)


def alphabet(pattern: str, flags: int) -> list[str]:
    """One character of each kind that the pattern distinguishes."""
    return _automaton(pattern, flags, "search").atoms


# ----- the automaton

State = tuple[int, int]  # the instruction that reads a character, and what was read before (as edges see it)


class _Automaton:
    """The program as an automaton: its states read one character each, all else is between them."""

    def __init__(self, prog: Program, *, searched: bool, full: bool) -> None:
        self.full = full
        code = list(prog.code)
        sets = list(prog.sets)
        code = self._flatten(code, sets)
        if searched:
            # In front of all, what has been tried and has failed: any character, and begin again.
            sets.append(lambda character: True)
            shift = 3
            code = [(SPLIT, 3, 1), (CHAR, len(sets) - 1), (JUMP, 0)] + [_moved(item, shift) for item in code]
        self.code, self.sets = code, sets
        self.searching = 1 if searched else -1
        edges = [item for item in code if item[0] == EDGE]
        behind = {item[3] for item in code if item[0] == LOOK and item[1] < 0}
        kinds: dict[tuple[bool, ...], str] = {}
        for character in _UNIVERSE:
            key = tuple(question(character) for question in sets) + (character == "\n", _is_word(character, False))
            kinds.setdefault(key, character)
        #: One character for each kind that the pattern distinguishes.
        self.atoms = list(kinds.values())
        self._member = [[question(atom) for atom in self.atoms] for question in sets]
        looked: dict[tuple[Any, ...], int] = {}
        self._before: list[str] = []
        self._seen = []
        for atom in (_EDGE, *self.atoms):
            key = ()
            if edges:
                key = (atom == _EDGE, atom == "\n", _is_word(atom, False), _is_word(atom, True))
            key += tuple(atom != _EDGE and sets[index](atom) for index in sorted(behind))
            if key not in looked:
                looked[key] = len(looked)
                self._before.append(atom)
            self._seen.append(looked[key])
        self.start: State = (-1, self._seen[0])
        self._closures: dict[State, tuple[dict[int, list[int]], int]] = {}
        self.edges: dict[State, dict[int, list[State]]] = {}
        self.doubled: set[tuple[State, int, State]] = set()
        self._explore()
        self.safe = self._safe()

    @staticmethod
    def _flatten(code: list[Instruction], sets: list[Callable[[str], bool]]) -> list[Instruction]:
        """Puts looks ahead beside what follows: the engine reads them first, and then goes on from where it was."""
        code = list(code)
        place = 0
        while place < len(code):
            item = code[place]
            if item[0] == LOOK and item[3] is None:
                inner: Program = item[4]
                if item[1] < 0:  # of one width: it costs the same at each place
                    code[place] = (JUMP, place + 1)
                else:
                    first = len(code)
                    offset = len(sets)
                    sets.extend(inner.sets)
                    for instruction in inner.code:
                        moved = _moved(instruction, first)
                        if moved[0] == CHAR:
                            moved = (CHAR, moved[1] + offset)
                        elif moved[0] == LOOK and moved[3] is not None:
                            moved = (*moved[:3], moved[3] + offset, *moved[4:])
                        code.append((FAIL,) if moved[0] == MATCH else moved)
                    code[place] = (SPLIT, first, place + 1)
            place += 1
        return code

    def _explore(self) -> None:
        waiting = [self.start]
        while waiting:
            state = waiting.pop()
            if state in self.edges:
                continue
            self.edges[state] = found = {}
            for pc, masks in self._closure(state)[0].items():
                for atom, seen in enumerate(self._seen[1:]):
                    ways = sum(1 for mask in masks if mask >> atom & 1)
                    if ways and self._member[self.code[pc][1]][atom]:
                        target = (pc, seen)
                        found.setdefault(atom, []).append(target)
                        if ways > 1:
                            self.doubled.add((state, atom, target))
                        waiting.append(target)

    def _closure(self, state: State) -> tuple[dict[int, list[int]], int]:
        """What may be read next: by instruction, the kinds of characters on each way there; and when it matches.

        The last bit of a mask stands for the end of the text.
        """
        known = self._closures.get(state)
        if known is not None:
            return known
        pc, seen = state
        before = self._before[seen]
        everything = (1 << len(self.atoms) + 1) - 1
        found: dict[int, list[int]] = defaultdict(list)
        matches = 0
        waiting: list[tuple[int, int, frozenset[int]]] = [(0 if pc < 0 else pc + 1, everything, frozenset())]
        rounds = 0
        while waiting:
            place, mask, path = waiting.pop()
            rounds += 1
            if rounds > 200_000:
                raise NotImplementedError("too many ways between two characters: write the pattern in parts")
            if not mask:
                continue
            item = self.code[place]
            kind = item[0]
            if kind == CHAR:
                found[place].append(mask)
            elif kind == MATCH:
                matches |= mask & (1 << len(self.atoms)) if self.full else mask
            elif kind == FAIL:
                continue
            elif kind == SPLIT:
                waiting += [(item[2], mask, path), (item[1], mask, path)]
            elif kind == JUMP:
                waiting.append((item[1], mask, path))
            elif kind == LOOP:
                # An empty round is the last one.
                if item[1] not in path:
                    waiting.append((place + 1, mask, path | {item[1]}))
            elif kind == EDGE:
                allowed = 0
                for number, atom in enumerate((*self.atoms, _EDGE)):
                    if any(_holds(*item[1:], before, atom, last) for last in (True, False)):
                        allowed |= 1 << number
                waiting.append((place + 1, mask & allowed, path))
            elif kind == LOOK:
                direction, negative, question = item[1:4]
                if direction > 0:
                    allowed = sum(1 << number for number, holds in enumerate(self._member[question]) if holds)
                    waiting.append((place + 1, mask & (everything & ~allowed if negative else allowed), path))
                elif (before != _EDGE and self.sets[question](before)) is not negative:
                    waiting.append((place + 1, mask, path))
            elif kind == BACK:
                raise AssertionError("replaced before")
            else:
                waiting.append((place + 1, mask, path))
        self._closures[state] = known = dict(found), matches
        return known

    def _safe(self) -> set[State]:
        """The states from which a match is certain, whatever comes: by one way or another."""
        atoms = len(self.atoms)
        following: dict[frozenset[State], list[frozenset[State] | None]] = {}
        waiting = [frozenset({state}) for state in self.edges]
        while waiting:
            states = waiting.pop()
            if states in following:
                continue
            if len(following) > 20_000:
                return set()
            matches = 0
            for state in states:
                matches |= self._closure(state)[1]
            found: list[frozenset[State] | None] = []
            for atom in range(atoms + 1):
                # None: it has matched.
                if matches >> atom & 1:
                    found.append(None)
                    continue
                found.append(frozenset(target for state in states for target in self.edges[state].get(atom, ())))
            following[states] = found
            waiting += [target for target in found if target]
        certain = {states for states, found in following.items() if frozenset() not in found}
        changed = True
        while changed:
            lost = {
                states for states in certain if any(t is not None and t not in certain for t in following[states])
            }
            certain -= lost
            changed = bool(lost)
        # A search that begins again is none: what it finds later does not undo what it has tried.
        return {state for state in self.edges if frozenset({state}) in certain and state[0] != self.searching} - (
            {self.start} if self.searching >= 0 else set()
        )


def _moved(item: Instruction, by: int) -> Instruction:
    if item[0] in (SPLIT,):
        return (SPLIT, item[1] + by, item[2] + by)
    if item[0] in (JUMP, LOOP):
        return (item[0], item[1] + by)
    return item


def _without_back(items: Any, groups: dict[int, Any]) -> list[Any]:
    """A reference to a group as a copy of the group: it reads more texts, in no fewer ways."""
    result: list[Any] = []
    for kind, value in items:
        name = str(kind)
        if name == "GROUPREF":
            result += groups[value]
            continue
        if name == "SUBPATTERN":
            body = _without_back(value[3], groups)
            if value[0] is not None:
                groups[value[0]] = body
            value = (None, value[1], value[2], body)
        elif name == "BRANCH":
            value = (value[0], [_without_back(branch, groups) for branch in value[1]])
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            value = (*value[:2], _without_back(value[2], groups))
        result.append((kind, value))
    return result


def _automaton(pattern: str, flags: int, method: str) -> _Automaton:
    tree = _parser.parse(pattern, flags)
    if "GROUPREF" in repr(tree.data):
        tree.data = _without_back(tree, {})
    builder = _Builder(tree, rounds=_ROUNDS)
    builder.build(tree, tree.state.flags | flags)
    builder.emit(MATCH)
    searched = method not in ("match", "fullmatch")
    return _Automaton(Program(builder.code, builder.sets), searched=searched, full=method == "fullmatch")


# ----- the verdict


class SamplingDecision(NamedTuple):
    """How long a pattern may take; for more than linear, a word to repeat that shows it."""

    kind: str
    word: str = ""
    prefix: str = ""


def _components(nodes: Iterable[Any], edges: Callable[[Any], Iterator[Any]]) -> list[list[Any]]:
    """Strongly connected components (Tarjan's), without recursion."""
    index: dict[Any, int] = {}
    low: dict[Any, int] = {}
    on_stack: set[Any] = set()
    stack: list[Any] = []
    found: list[list[Any]] = []
    for root in nodes:
        if root in index:
            continue
        work = [(root, edges(root))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            for target in rest:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, edges(target)))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    found.append(component)
    return found


def _way(
    start: Any, goal: Callable[[Any], bool], edges: Callable[[Any], Iterator[tuple[int, Any]]]
) -> list[int] | None:
    """The atoms on a shortest way of at least one step."""
    came: dict[Any, tuple[Any, int] | None] = {}
    waiting = [start]
    place = 0
    while place < len(waiting):
        node = waiting[place]
        place += 1
        for atom, target in edges(node):
            if goal(target):
                word = [atom]
                while node != start:
                    node, atom = came[node]  # type: ignore[misc]
                    word.append(atom)
                return word[::-1]
            if target not in came and target != start:
                came[target] = (node, atom)
                waiting.append(target)
    return None


def verdict(pattern: str, flags: int, method: str) -> SamplingDecision:
    """How long ``re`` may take for ``method`` (search, sub, findall, finditer, split, match, fullmatch).

    Raises NotImplementedError for what the checker does not know.
    """
    machine = _automaton(pattern, flags, method)
    edges, safe, atoms = machine.edges, machine.safe, machine.atoms

    def within(members: set[State]) -> Callable[[State], Iterator[State]]:
        return lambda state: (target for targets in edges[state].values() for target in targets if target in members)

    live = set(edges) - safe
    loops = []
    for component in _components(live, within(live)):
        members = set(component)
        if len(members) > 1 or any(target in members for target in within(members)(component[0])):
            loops.append(members)

    def word(found: list[int]) -> str:
        return "".join(atoms[atom] for atom in found)

    def prefix(state: State) -> str:
        if state == machine.start:
            return ""
        way = _way(machine.start, lambda s: s == state, lambda s: _steps_of(edges, s))
        return word(way or [])

    for members in loops:
        for state, atom, target in machine.doubled:
            if state in members and target in members:
                back = (
                    _way(
                        target,
                        lambda s, state=state: s == state,
                        lambda s, members=members: _steps_of(edges, s, members),
                    )
                    if target != state
                    else []
                )
                return SamplingDecision(EXPONENTIAL, word([atom, *(back or [])]), prefix(state))

        def pairs(
            pair: tuple[State, State], members: set[State] = members
        ) -> Iterator[tuple[int, tuple[State, State]]]:
            for number, targets in edges[pair[0]].items():
                others = edges[pair[1]].get(number, ())
                for left in targets:
                    if left in members:
                        for right in others:
                            if right in members:
                                yield number, (left, right)

        for state in members:

            def apart_again(pair: tuple[State, State], state: State = state) -> bool:
                return pair == (state, state)

            def steps_apart(
                node: tuple[State, State, bool], members: set[State] = members
            ) -> Iterator[tuple[int, Any]]:
                for number, (left, right) in pairs((node[0], node[1])):
                    yield number, (left, right, node[2] or left != right)

            found = _way((state, state, False), lambda n, s=state: n[0] == n[1] == s and n[2], steps_apart)
            if found is not None:
                return SamplingDecision(EXPONENTIAL, word(found), prefix(state))

    used = [
        {number for state in members for number, targets in edges[state].items() if members & set(targets)}
        for members in loops
    ]
    for first, above in enumerate(loops):
        reached = _reached(above, edges, live)
        for second, below in enumerate(loops):
            if first == second or not used[first] & used[second] or not below & reached:
                continue
            for start in above:
                for end in below:

                    def triples(
                        node: tuple[State, State, State], above: set[State] = above, below: set[State] = below
                    ) -> Iterator[tuple[int, Any]]:
                        for number, targets in edges[node[0]].items():
                            middles = edges[node[1]].get(number, ())
                            lasts = edges[node[2]].get(number, ())
                            if not middles or not lasts:
                                continue
                            for left in targets:
                                if left not in above:
                                    continue
                                for right in lasts:
                                    if right not in below:
                                        continue
                                    for middle in middles:
                                        if middle in live:
                                            yield number, (left, middle, right)

                    goal = (start, end, end)
                    found = _way((start, start, end), lambda n, goal=goal: n == goal, triples)
                    if found is not None:
                        return SamplingDecision(POLYNOMIAL, word(found), prefix(start))
    return SamplingDecision(LINEAR)


def _reached(members: set[State], edges: dict[State, dict[int, list[State]]], live: set[State]) -> set[State]:
    reached: set[State] = set()
    waiting = list(members)
    while waiting:
        for targets in edges[waiting.pop()].values():
            for target in targets:
                if target in live and target not in reached:
                    reached.add(target)
                    waiting.append(target)
    return reached


def _steps_of(
    edges: dict[State, dict[int, list[State]]], state: State, members: set[State] | None = None
) -> Iterator[tuple[int, State]]:
    for number, targets in edges[state].items():
        for target in targets:
            if members is None or target in members:
                yield number, target
