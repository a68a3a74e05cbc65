"""Keep what people and programs read: reports, pages, reviews, evaluations."""
