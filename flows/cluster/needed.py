"""Import what workers need, once, in the process that this machine's workers are forked from."""

import gc
from importlib import import_module

NEEDED = (
    "distributed",
    "zarr",
    "flows.jobs.networks",
    "flows.jobs.shard",
    "tasks.network.inference",
    "flows.jobs.scoring.cells",
    "flows.jobs.fitting.statistics",
    "flows.jobs.thumbnails",
    "flows.jobs.segmentation",
    "flows.jobs.pictures",
)

# None of what is imported becomes garbage, and looking for it takes a third of the time. What is
# frozen is not looked at by workers either, so that they share its memory.
gc.disable()
for module in NEEDED:
    import_module(module)
gc.freeze()
gc.enable()
