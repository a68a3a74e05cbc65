"""Serve the pages of patients, of pictures, and of fields with pan and zoom."""
