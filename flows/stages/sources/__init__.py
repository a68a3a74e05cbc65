"""List the sources of a night, and tell what they are: cells, fields of view or slides."""
