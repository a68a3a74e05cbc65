"""Look twice at images that go to a person, and learn from others what such a look finds."""
