"""Render cells, fields and slides for demonstrations and tests."""
