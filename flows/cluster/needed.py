"""Import the modules that workers need, once, in the process that workers are forked from."""

import gc
from importlib import import_module

from flows.jobs.worker import leave_pandas_out

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
    "flows.jobs.photographs",
    "flows.jobs.drawings",
)

# Imported objects never become garbage, and the search for it takes a third of the time. Workers do
# not scan frozen objects either, so they share their memory.
gc.disable()
for module in NEEDED:
    import_module(module)
leave_pandas_out()
gc.freeze()
gc.enable()
