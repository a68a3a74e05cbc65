"""Do one unit of work on a worker: read, compute, write, and say what came of it."""
