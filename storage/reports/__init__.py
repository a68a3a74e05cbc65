"""Keep what people and programs read: reports, pages, answers, evaluations."""
