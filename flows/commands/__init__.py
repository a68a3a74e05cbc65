"""Answer the command line: one command a module."""
