"""Carry out the steps that flows share."""
