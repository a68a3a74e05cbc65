"""Define the options of every command, without importing what the command does."""
