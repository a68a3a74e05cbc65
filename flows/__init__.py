"""Run slidewatch: Prefect flows, their settings, the compute cluster and the command line."""
