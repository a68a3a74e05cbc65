"""List the sources of a night, and recognise their kinds: cells, fields of view or slides."""
