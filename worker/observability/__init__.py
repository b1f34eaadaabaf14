"""What operators see: log lines, metrics and what a scrape reads."""
