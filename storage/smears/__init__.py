"""Keep fields, slides, patients and answers: the wing of the store that may be removed."""
