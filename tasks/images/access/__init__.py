"""Reach files, folders and archives, wherever they are, and wait no longer than a limit."""
