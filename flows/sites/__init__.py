"""Commission sites, learn their nights, and share sites between stores."""
