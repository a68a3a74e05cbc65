"""Access files, folders and archives anywhere, with a time limit."""
