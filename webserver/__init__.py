"""The web server (comes with its own issue)."""
