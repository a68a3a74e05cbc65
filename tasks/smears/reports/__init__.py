"""Make the rows of the reports on fields, slides, patients and batches."""
