"""What is kept: every path and file format of a slidewatch store is known here and only here."""
