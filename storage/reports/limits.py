"""Say how much a query over the reports may take, and by which error it is refused."""

SECONDS = 300.0
# A query may run on the machine of the next night: it must leave memory and disk to that.
MEMORY, SPILL = "2GiB", "8GiB"


class QueryError(Exception):
    """A query cannot be answered; one line says why."""
