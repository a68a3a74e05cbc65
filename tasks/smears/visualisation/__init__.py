"""Draw what people look at: pages, charts, contours, thumbnails."""
