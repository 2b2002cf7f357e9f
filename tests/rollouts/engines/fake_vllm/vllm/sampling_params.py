from enum import StrEnum


class RequestOutputKind(StrEnum):
    FINAL_ONLY = "final"
