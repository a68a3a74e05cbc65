"""Look twice at images that go to a person: turned, flipped and filtered."""
