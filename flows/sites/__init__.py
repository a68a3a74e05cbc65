"""Commission sites, learn their nights, and share what was learned between stores."""
