"""Define the error that a cluster raises."""


class ClusterError(Exception):
    """The cluster cannot be reached, or a piece of work has failed on it."""
