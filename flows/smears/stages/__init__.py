"""Steps that flows of the wing share."""
