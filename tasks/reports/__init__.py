"""Make the rows of reports, and judge a night."""
