"""The web server: HTTP API and live events. It meets the scheduler only in the database."""
