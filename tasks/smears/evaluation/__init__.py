"""Compare a detector with others on attacks, corruptions and foreign images."""
