"""What a judge has replied, in one SQLite file that all workers and runs share.

A row is reserved before its request is sent, so that a budget holds for all workers together. One whose
worker died stays reserved: it may have been paid for.
"""

import sqlite3
from pathlib import Path
from typing import final

BUSY_SECONDS = 60.0


@final
class Replies:
    """Replies by question.

    Args:
        path: The file; made if absent.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        self._connection.execute("CREATE TABLE IF NOT EXISTS replies (question TEXT PRIMARY KEY, reply TEXT)")

    def find(self, question: str) -> str | None:
        """Return the reply to a question, if there is one."""
        asked = self._connection.execute("SELECT reply FROM replies WHERE question = ?", [question])
        row: tuple[str | None] | None = asked.fetchone()
        return row[0] if row else None

    def reserve(self, question: str, budget: int | None) -> bool:
        """Make room for a reply, and return whether the budget has any."""
        self._connection.execute(
            "INSERT OR IGNORE INTO replies SELECT ?, NULL WHERE (SELECT COUNT(*) FROM replies) < ?",
            [question, 2**62 if budget is None else budget],
        )
        reserved = self._connection.execute("SELECT 1 FROM replies WHERE question = ?", [question])
        return reserved.fetchone() is not None

    def keep(self, question: str, reply: str) -> None:
        """Keep a reply that was reserved."""
        self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", [question, reply])

    def release(self, question: str) -> None:
        """Give up the room of a reply that did not come."""
        self._connection.execute("DELETE FROM replies WHERE question = ? AND reply IS NULL", [question])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
