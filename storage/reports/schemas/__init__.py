"""Define the columns of each report, with meaning and unit in the field metadata."""
