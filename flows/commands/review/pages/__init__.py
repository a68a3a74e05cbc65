"""Pages of the bench beside those of single cells: pictures with pan and zoom, and patients."""
