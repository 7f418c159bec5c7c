"""SMS from ERP changes: PostgreSQL triggers in, CareSoft messages out."""

__version__ = "0.1.0"
