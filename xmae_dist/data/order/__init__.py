"""Which window stands at which position of the endless stream, as a pure function; nothing here reads a window."""
