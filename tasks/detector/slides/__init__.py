"""What slides are like: how they differ, what is a smear, and what a cell is compared with."""
