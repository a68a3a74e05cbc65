"""Have a second look at images that go to a person, and calibrate it on other images."""
