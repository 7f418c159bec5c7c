"""Watches to triggers: what should be in the database, what is there, and the SQL between the two.

Everything is generated from `sql/capture.sql`; identifiers and words are quoted by the driver, never pasted.
"""

from listener.capture.install import (
    HARMLESS,
    LOCK_TIMEOUT,
    Difference,
    Step,
    apply,
    differences,
    unfinished,
    uninstall,
    warnings,
)
from listener.capture.tables import Table, find_table
from listener.capture.triggers import Capture, captured_value, current_row, wanted
from listener.capture.where import try_where

__all__ = [
    "HARMLESS",
    "LOCK_TIMEOUT",
    "Capture",
    "Difference",
    "Step",
    "Table",
    "apply",
    "captured_value",
    "current_row",
    "differences",
    "find_table",
    "try_where",
    "unfinished",
    "uninstall",
    "wanted",
    "warnings",
]
