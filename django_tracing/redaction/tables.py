"""Find the operation of an SQL statement and the tables it names, from its tokens."""

from __future__ import annotations

from typing import Final

from django_tracing.redaction.dialects import Dialect, Token, words_outside
from django_tracing.redaction.patterns import pattern

__all__ = ["operation_of", "tables_of", "verb_after_with"]

#: The first of these after the subqueries of a WITH is the statement's verb.
_VERBS: Final = frozenset({"select", "insert", "update", "delete", "merge", "values", "replace", "table"})
#: What stands before the name that WITH gives to a subquery. It may be any word.
_BEFORE_SUBQUERIES: Final = frozenset({"with", "recursive", ","})
_NOT_OF_AN_OPERATION: Final = pattern(r"[^a-z_]+")


def operation_of(tokens: list[Token]) -> tuple[str, frozenset[str]]:
    """Return the verb, and the names that WITH gives to subqueries, in lower case."""
    count = len(tokens)
    index = 0
    while index < count and tokens[index][1] in ("(", ";"):
        index += 1
    if index == count or tokens[index][0] != "word":
        return "unknown", frozenset()
    verb = _NOT_OF_AN_OPERATION.sub("", tokens[index][1].lower())[:32] or "unknown"
    withs = [position for position, token in enumerate(tokens) if token[0] == "word" and token[1].lower() == "with"]
    if not withs:
        return verb, frozenset()
    partners: dict[int, int] = {}
    opened: list[int] = []
    for position, (_, text, _) in enumerate(tokens):
        if text == "(":
            opened.append(position)
        elif text == ")" and opened:
            partners[opened.pop()] = position
    names: set[str] = set()
    for start in withs:
        after = _common_tables(tokens, start + 1, partners, names)
        if start != index:
            continue
        if after + 1 < count and tokens[after][1] == "(" and tokens[after - 1][1] == ")":
            # Only a query stands in parentheses.
            verb = "select"
            continue
        while after < count:
            kind, text, _ = tokens[after]
            if kind == "word" and text.lower() in _VERBS:
                verb = text.lower()
                break
            after = partners.get(after, after) + 1
    return verb, frozenset(names)


def verb_after_with(sql: str, dialect: Dialect) -> str:
    """Return the verb of a statement that begins with WITH; ``with`` if it has none."""
    return next(
        (word for before, word in words_outside(sql, dialect) if word in _VERBS and before not in _BEFORE_SUBQUERIES),
        "with",
    )


def _common_tables(tokens: list[Token], index: int, partners: dict[int, int], names: set[str]) -> int:
    """Read ``[RECURSIVE] name [(columns)] AS [NOT] [MATERIALIZED] (...), ...``. Return its end.

    A WITH of another kind (TIME ZONE, TIES, ORDINALITY) has nothing of the sort after it and gives no name.
    """
    count = len(tokens)

    def at(position: int) -> str:
        return tokens[position][1].lower() if position < count else ""

    if at(index) == "recursive":
        index += 1
    while index < count and tokens[index][0] in ("word", "quoted"):
        name = _unquoted(tokens[index][1]).lower()
        following = index + 1
        if at(following) == "(":
            following = partners.get(following, count) + 1
        if at(following) != "as":
            break
        following += 1
        while at(following) in ("not", "materialized"):
            following += 1
        if at(following) != "(":
            break
        names.add(name)
        index = partners.get(following, count) + 1
        if at(index) != ",":
            break
        index += 1
    return index


#: At these words a list of tables ends.
_ENDS: Final = frozenset(
    {"where", "group", "order", "having", "limit", "offset", "union", "intersect", "except", "set", "values"}
    | {"returning", "select", "window", "fetch", "for"}
)
#: Verbs that may be a word of another clause as well: FOR UPDATE, ON DELETE, the function REPLACE().
_CHANGES: Final = frozenset({"insert", "update", "delete", "merge", "replace"})
#: Words that are no table where one may stand.
_NO_NAMES: Final = (
    _ENDS
    | _CHANGES
    | frozenset({"with", "as", "on", "using", "default", "all", "begin", "end", "outfile", "dumpfile", "into"})
)
#: By what the name of a table follows: the words that may stand before it.
_SKIPPED: Final[dict[str, frozenset[str]]] = {
    "from": frozenset({"only", "lateral", "table"}),
    "into": frozenset({"table", "only", "ignore", "temporary", "temp", "unlogged"}),
    "table": frozenset({"if", "not", "exists", "only", "concurrently"}),
    "truncate": frozenset({"table", "only"}),
    "copy": frozenset(),
    "lock": frozenset({"table", "tables", "only"}),
    "analyze": frozenset({"analyze", "verbose", "full", "freeze", "table", "local", "no_write_to_binlog", "only"}),
    "verb": frozenset(
        {"low_priority", "high_priority", "delayed", "quick", "ignore", "only", "overwrite", "table", "percent"}
        | {"or", "rollback", "abort", "replace", "fail", "statistics"}
    ),
}
#: What may come after ANALYZE, VACUUM and LOCK instead of a table.
_NO_TABLES: Final = (_VERBS - {"table"}) | {"index", "cluster", "schema", "database", "into", "format", "instance"}
#: After these words, and at the start, a verb opens a statement.
_BEFORE_VERBS: Final = frozenset({"", "(", ";", "do", "instead", "also", "begin", "row", "else", "loop"})
#: In statements that begin with the first, a verb opens another one wherever it stands. In those that begin with the
#: second, it does so after AS and after a list in parentheses.
_EXPLAINING: Final = frozenset({"explain", "analyze", "describe", "desc"})
_AROUND: Final = frozenset({"with", "create", "prepare", "declare"})
#: The verbs of statements in which FROM leads to tables.
_WITH_FROM: Final = frozenset({"select", "delete", "update", "from"})
#: The verbs of statements in which INTO leads to no table.
_WITHOUT_INTO: Final = frozenset({"fetch", "move", "execute", "import", "vacuum", "update", "delete", "call"})
_OF_PRIVILEGES: Final = frozenset({"grant", "revoke", "deny"})
#: What SHOW ... FROM shows of a table. The others are of a database.
_SHOWN: Final = frozenset({"columns", "fields", "index", "indexes", "keys"})
#: Verbs after which TABLE and VIEW lead to the name of one; of some, to several.
_WITH_TABLE: Final = frozenset({"create", "alter", "comment", "refresh", "reindex"})
_WITH_TABLES: Final = frozenset({"drop", "check", "optimize", "repair", "checksum", "rename"})
#: What is created and dropped ON a table.
_ON_TABLES: Final = frozenset({"index", "trigger", "policy"})
#: Words between which a query stands.
_SET_OPERATIONS: Final = frozenset({"union", "all", "distinct", "intersect", "except"})
#: The words that the reader looks at. All others are names to it.
_READ: Final = (
    _ENDS
    | _CHANGES
    | _OF_PRIVILEGES
    | frozenset({"from", "join", "straight_join", "into", "using", "with", "on"})
    | frozenset({"table", "view", "truncate", "copy", "analyze", "vacuum", "lock"})
)
_TABLE: Final = pattern(r"[\w$#. -]{1,128}")
#: A partition's date or number: it would make a name of its own of every day.
_DIGITS: Final = pattern(r"\d{4,}")
_MAX_TABLES: Final = 10
#: The longest name in brackets, in tokens.
_MOST_WORDS: Final = 8
_CLOSING: Final = {'"': '"', "`": "`", "[": "]"}


def tables_of(tokens: list[Token], operation: str, subqueries: frozenset[str]) -> tuple[str, ...]:
    """Return the tables that a statement names: at most ten, each once, in order.

    ``operation`` and ``subqueries`` are what :func:`operation_of` returns.
    """
    return _Reader(tokens, operation, subqueries).read()


class _Reader:
    """Reads the tokens once, from left to right."""

    __slots__ = (
        *("expecting", "found", "index", "lists", "operation", "previous", "subqueries"),
        *("tokens", "verbs"),
    )

    def __init__(self, tokens: list[Token], operation: str, subqueries: frozenset[str]) -> None:
        self.tokens = tokens
        self.operation = operation
        self.subqueries = subqueries
        self.found: list[str] = []
        self.index = 0
        #: What stands before, in lower case.
        self.previous = ""
        #: A key of ``_SKIPPED`` if a table may come next.
        self.expecting = ""
        #: For each depth of parentheses, the verb of the statement there; empty if there is none.
        self.verbs = [""]
        #: The lengths of ``verbs`` at which a comma leads to one more table.
        self.lists: set[int] = set()

    def read(self) -> tuple[str, ...]:
        tokens, verbs, lists = self.tokens, self.verbs, self.lists
        count = len(tokens)
        while self.index < count and len(self.found) < _MAX_TABLES:
            if self.expecting and self._read_name():
                continue
            kind, text, _ = tokens[self.index]
            if kind == "word":
                text = text.lower()
                if len(verbs) == 1 and self.previous in ("", ";"):
                    verbs[0] = text
                # t.from and @from are names.
                if text in _READ and self.previous != "." and self.previous != "@":
                    self._read_word(text, verbs[-1])
            elif text == "(":
                verbs.append("")
            elif text == ")":
                lists.discard(len(verbs))
                if len(verbs) > 1:
                    verbs.pop()
            elif text == ",":
                if len(verbs) in lists:
                    self.expecting = "from"
            elif text == ";":
                lists.discard(len(verbs))
            elif text == "[":
                self._skip_name_in_brackets()
            self.previous = text
            self.index += 1
        return tuple(self.found)

    def _at(self, index: int) -> str:
        return self.tokens[index][1].lower() if index < len(self.tokens) else ""

    def _read_word(self, word: str, verb: str) -> None:
        if word in _ENDS:
            self.lists.discard(len(self.verbs))
        if verb in _OF_PRIVILEGES:
            return  # REVOKE SELECT ON t FROM alice
        if word == "select":
            # A rule or a policy may be ON or FOR SELECT.
            if verb != "create" or self.previous not in ("on", "for"):
                self.verbs[-1] = word
        elif word == "from":
            self._read_from(verb)
        elif word == "join" or (word == "straight_join" and len(self.verbs) in self.lists):
            self.expecting = "from"
            if verb == "delete":  # DELETE a FROM a JOIN b USING (x)
                self.verbs[-1] = "delete using"
        elif word in _CHANGES:
            if self._opens_statement(word, verb):
                self.verbs[-1] = word
                self.expecting = "verb"
            else:
                self.lists.discard(len(self.verbs))  # ON DUPLICATE KEY UPDATE a = 1, b = 2
        elif word == "into":
            if verb not in _WITHOUT_INTO:
                self.expecting = "into"
        elif word == "using":
            if verb == "delete" or verb == "merge":
                self.expecting = "from"
                self.lists.add(len(self.verbs))
                # The next one belongs to a join.
                self.verbs[-1] = f"{verb} using"
        elif word == "with":
            if self.previous == "(":
                self.verbs[-1] = word
                self.lists.discard(len(self.verbs))
        elif word in _OF_PRIVILEGES:
            if verb == "alter":  # ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM alice
                self.verbs[-1] = word
        elif word == "on":
            if (
                self.operation in ("create", "drop")
                and not self.found
                and not _ON_TABLES.isdisjoint(map(self._at, range(1, 6)))
                and self._at(1) != "event"
                and self._at(self.index + 1) not in _NO_TABLES
            ):
                self.expecting = "table"
        elif word == "table" or word == "view":
            self._read_table(verb)
        elif not self.previous or self.previous == ";":
            self._read_first(word)

    def _read_from(self, verb: str) -> None:
        if verb == "show":
            if not _SHOWN.isdisjoint(map(self._at, range(self.index - 2, self.index))):
                self.expecting = "from"
            # After FROM t, FROM names the database.
            self.verbs[-1] = ""
        elif self.previous != "distinct" and (
            verb in _WITH_FROM or (verb == "create" and self._at(1) == "statistics")
        ):
            self.expecting = "from"
            self.lists.add(len(self.verbs))

    def _opens_statement(self, word: str, verb: str) -> bool:
        if self._at(self.index + 1) == "(" and (word == "insert" or word == "replace"):
            return False  # a function
        if self.previous == "then":
            return verb != "merge using"
        return (
            self.previous in _BEFORE_VERBS
            or verb in _EXPLAINING
            or (verb in _AROUND and (self.previous == ")" or self.previous == "as"))
        )

    def _read_table(self, verb: str) -> None:
        if self.previous in _BEFORE_VERBS or self.previous in _SET_OPERATIONS or verb == "insert":
            self.expecting = "table"  # TABLE t is a query of all of it
        elif len(self.verbs) == 1 and self.previous != "new" and self.previous != "old":
            if self.operation in _WITH_TABLE or (self.operation == "show" and self.previous == "create"):
                self.expecting = "table"
            elif self.operation in _WITH_TABLES:
                self.expecting = "table"
                self.lists.add(1)

    def _read_first(self, word: str) -> None:
        if word == "truncate":
            self.lists.add(len(self.verbs))
            self.expecting = word
        elif word == "copy":
            self.expecting = word
        elif word in ("analyze", "vacuum", "lock") and self._at(self.index + 1) not in _NO_TABLES:
            self.lists.add(len(self.verbs))
            self.expecting = "lock" if word == "lock" else "analyze"

    # ----- where a table may come next

    def _read_name(self) -> bool:
        """Read the next token as a table, or as what may stand before one. Return False if it is neither."""
        expected = self.expecting
        kind, text, _ = self.tokens[self.index]
        word = text.lower() if kind == "word" else ""
        if word:
            following = self._at(self.index + 1)
            if word in _SKIPPED[expected] and self._names(word, self.index + 1):
                return self._step(word)
            if word == "into" and expected in ("verb", "copy"):
                self.expecting = word
                return self._step(word)
            if word == "from" and expected == "verb":
                self.expecting = word
                self.lists.add(len(self.verbs))
                return self._step(word)
            if expected == "verb" and word == "top" and following == "(":
                return self._skip_parentheses()
            if expected == "from" and word == "rows" and following == "from":
                self.index += 1
                return self._step(following)
        elif text == "(":
            if expected == "analyze" and self.previous in ("analyze", "vacuum"):
                return self._skip_parentheses()
            if expected == "from" or (expected == "verb" and self.verbs[-1] == "update"):
                # A subquery, or tables in parentheses.
                self.expecting = "from"
                self.verbs.append("")
                self.lists.add(len(self.verbs))
                return self._step(text)
        self.expecting = ""
        if (word and word not in _NO_NAMES) or kind == "quoted" or text == "[" or text == "#":
            self._take_name(expected)
            return True
        return False

    def _names(self, word: str, index: int) -> bool:
        """Return whether a name may come at ``index``; if not, ``word``, which stands before it, is the name."""
        if index >= len(self.tokens):
            return False
        if word.startswith("temp") and self.verbs[-1] != "select":
            return False  # INSERT INTO temp
        kind, text, _ = self.tokens[index]
        if kind == "word":
            text = text.lower()
            if text == "from":
                return self.expecting == "verb"
            return text in ("into", "replace") or text not in _NO_NAMES
        return kind == "quoted" or text in ("(", "[", "#")

    def _step(self, text: str) -> bool:
        self.previous = text
        self.index += 1
        return True

    def _skip_parentheses(self) -> bool:
        depth = 0
        while self.index < len(self.tokens):
            text = self.tokens[self.index][1]
            depth += (text == "(") - (text == ")")
            self.index += 1
            if text == ")" and not depth:
                break
        self.previous = ")"
        return True

    def _take_name(self, expected: str) -> None:
        name, self.index = _name(self.tokens, self.index)
        self.previous = name.lower()
        following = self._at(self.index)
        if expected == "from" and following == "(":
            return  # a function
        if expected == "verb":
            if self.verbs[-1] == "update":
                self.lists.add(len(self.verbs))
            elif self.verbs[-1] == "delete" and following in (",", "from", "."):
                return  # DELETE a, b FROM t AS a, u AS b
        if self.previous not in self.subqueries and _TABLE.fullmatch(name):
            name = _DIGITS.sub("*", name)
            if name not in self.found:
                self.found.append(name)

    def _skip_name_in_brackets(self) -> None:
        # SQL Server's [order from], where the vendor is not known.
        for index in range(self.index + 1, min(self.index + 2 + _MOST_WORDS, len(self.tokens))):
            kind, text, _ = self.tokens[index]
            if text == "]":
                self.index = index
            if kind != "word":
                break


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if text[:1] in _CLOSING else text


def _name(tokens: list[Token], index: int) -> tuple[str, int]:
    """Return the name at ``index`` with its schema, and where it ends."""
    count = len(tokens)
    parts: list[str] = []
    while True:
        text = tokens[index][1]
        if text == "[":  # a name's quotes, where the vendor is not known
            words: list[str] = []
            index += 1
            while index < count and tokens[index][1] != "]":
                words.append(tokens[index][1])
                index += 1
            parts.append(" ".join(words))
        elif text == "#":  # SQL Server's #temp and ##temp
            hashes = ""
            while index < count and tokens[index][1] == "#":
                hashes += "#"
                index += 1
            parts.append(hashes + (tokens[index][1] if index < count else ""))
        else:
            parts.append(_unquoted(text))
        index += 1
        while index + 1 < count and tokens[index][1] == "." == tokens[index + 1][1]:
            # db..t: the schema is left out.
            parts.append("")
            index += 1
        if index + 1 >= count or tokens[index][1] != ".":
            break
        if tokens[index + 1][0] not in ("word", "quoted") and tokens[index + 1][1] not in ("[", "#"):
            break
        index += 1
    return ".".join(parts), index
