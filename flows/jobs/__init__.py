"""Do one unit of work on a worker: read, compute, write, and return the result."""
