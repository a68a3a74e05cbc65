"""Define the limits of a query over the reports, and the error that refuses it."""

SECONDS = 300.0
# A query may run on the machine of the next night, and must leave memory and disk for it.
MEMORY, SPILL = "2GiB", "8GiB"


class QueryError(Exception):
    """A query cannot be answered; one line says why."""
