"""Import the modules that workers need, once, in the process that workers are forked from."""

from importlib import import_module

from flows.jobs.worker import imported_once

NEEDED = (
    # Each worker imports the command's own module, which imports these.
    "flows.monitoring.console",
    "flows.options.commands",
    "distributed",
    "zarr",
    "flows.jobs.networks",
    "flows.jobs.shard",
    "tasks.network.inference",
    "flows.jobs.scoring.scores",
    "flows.jobs.fitting.fitted_rows",
    "flows.smears.jobs.photographs",
    "flows.smears.jobs.drawings",
)

with imported_once():
    for module in NEEDED:
        import_module(module)
