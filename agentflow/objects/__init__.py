"""The object store: outputs that are too large for a row, and archives of dropped months."""
