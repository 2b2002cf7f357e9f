import json

import pytest


@pytest.fixture
def write_jsonl(tmp_path, monkeypatch):
    """Writes records as JSON Lines into the working directory; messages then show bare names."""
    monkeypatch.chdir(tmp_path)

    def write(*records, name="pool.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        return name

    return write
