"""Show pictures with pan and zoom, and the contours of their cells above them."""
