"""The live feed: what changes in the database reaches browsers over Socket.IO (docs/live.md)."""
