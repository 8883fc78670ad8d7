"""One file a format, and the protocol that all obey (`source`); a mapping says what a table's columns mean."""
