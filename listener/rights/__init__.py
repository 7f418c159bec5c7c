"""Roles and rights: what the daemon and readers need, what they have, and the steps between; tried out by `verify`.

Three parts. The installer owns the schema. The daemon's role works on it without owning it, and reads of the ERP only
the columns that rules use. A reader sees the two views for people. The ERP's own roles need nothing.
"""

from listener.rights.needs import Needs, needs_of, statement_needs
from listener.rights.roles import Roles, erp_steps, left_to, own_steps, readers, roles, take_back
from listener.rights.tries import Did, Report, refused, try_out

__all__ = [
    "Did",
    "Needs",
    "Report",
    "Roles",
    "erp_steps",
    "left_to",
    "needs_of",
    "own_steps",
    "readers",
    "refused",
    "roles",
    "statement_needs",
    "take_back",
    "try_out",
]
