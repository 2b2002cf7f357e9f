"""Records and answers as JSON text.

What JSON has no type for is written as text: dates and times in ISO format, bytes in base64,
decimals, durations and UUIDs as ``str`` gives them. Numbers keep their type and every digit; NaN
and the infinities are written as Python writes them (``NaN``, ``Infinity``), so that a record
comes back as it was.
"""

import base64
import datetime
import decimal
import json
import uuid
from typing import Any


def json_text(value: Any) -> str:
    """Return ``value`` as JSON text, in the order of its keys and with its letters unescaped."""
    return json.dumps(value, ensure_ascii=False, default=text_of_other)


def text_of_other(value: object) -> str:
    """Return the text that stands for a value of a type that JSON lacks.

    Raises:
        TypeError: The type has no agreed text, as with a decoded image.
    """
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, decimal.Decimal | datetime.timedelta | uuid.UUID):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__}")
