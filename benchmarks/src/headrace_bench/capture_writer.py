"""The captured table, and transactions that change it at random."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

CREATE_TABLE = """
CREATE TABLE article (id bigint PRIMARY KEY, title text, body text, author text, views int NOT NULL DEFAULT 0);
ALTER TABLE article REPLICA IDENTITY FULL
"""
_WORDS = ("river", "dam", "gate", "sluice", "flow", "pond", "mill", "race", "head", "water", "level", "weir", "spill")
_LARGE = 800
_OPEN_AT_MOST = 12


@dataclass(slots=True)
class Writer:
    """Changes the table at random; ``done`` counts the changed rows."""

    dsn: str
    chance: random.Random
    rows: dict[int, bool] = field(default_factory=dict)
    """Existing keys, and whether an open transaction uses them."""
    next_key: int = 1
    done: int = 0

    def run(self, changes: int, seconds: float) -> Iterator[int]:
        """Yield after each transaction, spread over the given seconds."""
        begun = time.monotonic()
        with psycopg.connect(self.dsn) as short, psycopg.connect(self.dsn) as long:
            held: list[int] = []
            since = 0
            while self.done < changes:
                if held or self.chance.random() < 0.1:
                    held += self._transaction(long)
                    since += 1
                self._free(self._transaction(short))
                short.commit()
                if held and since > self.chance.randrange(1, _OPEN_AT_MOST):
                    long.commit()
                    self._free(held)
                    held, since = [], 0
                yield self.done
                time.sleep(max(0.0, begun + seconds * self.done / changes - time.monotonic()))

    def _free(self, keys: list[int]) -> None:
        for key in keys:
            if key in self.rows:
                self.rows[key] = False

    def _transaction(self, connection: psycopg.Connection[Any]) -> list[int]:
        """Change one to four rows that no other transaction uses; return their keys."""
        touched: list[int] = []
        for _ in range(self.chance.randrange(1, 5)):
            free = [key for key, taken in self.rows.items() if not taken or key in touched]
            if len(free) < 5 or self.chance.random() < 0.25:
                touched.append(self._insert(connection))
            else:
                touched.append(self._change(connection, self.chance.choice(free)))
            self.rows |= dict.fromkeys((key for key in touched if key in self.rows), True)
            self.done += 1
        return touched

    def _insert(self, connection: psycopg.Connection[Any]) -> int:
        key, self.next_key = self.next_key, self.next_key + 1
        values = (key, self._text(4), self._text(self._length()), self._text(1))
        connection.execute("INSERT INTO article (id, title, body, author) VALUES (%s, %s, %s, %s)", values)
        self.rows[key] = True
        return key

    def _change(self, connection: psycopg.Connection[Any], key: int) -> int:
        kind = self.chance.choices(("body", "views", "key", "delete", "title"), (4, 3, 1, 1, 1))[0]
        if kind == "delete":
            connection.execute("DELETE FROM article WHERE id = %s", (key,))
            del self.rows[key]
        elif kind == "key":
            new, self.next_key = self.next_key, self.next_key + 1
            connection.execute("UPDATE article SET id = %s WHERE id = %s", (new, key))
            del self.rows[key]
            self.rows[new] = True
            return new
        elif kind == "views":
            connection.execute("UPDATE article SET views = views + 1 WHERE id = %s", (key,))
        else:
            text = self._text(self._length() if kind == "body" else 4)
            statement = sql.SQL("UPDATE article SET {} = %s WHERE id = %s").format(sql.Identifier(kind))
            connection.execute(statement, (text, key))
        return key

    def _length(self) -> int:
        """Return a number of words for a text; a tenth are so large that PostgreSQL stores them outside the row."""
        return (
            self.chance.randrange(_LARGE, 4 * _LARGE) if self.chance.random() < 0.1 else self.chance.randrange(5, 150)
        )

    def _text(self, words: int) -> str:
        return " ".join(f"{self.chance.choice(_WORDS)}{self.chance.randrange(1000)}" for _ in range(words))
