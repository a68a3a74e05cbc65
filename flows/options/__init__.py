"""The options of every command, known without importing what the command does."""
