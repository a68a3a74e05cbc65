"""Start or reach the cluster, and run jobs on it."""
