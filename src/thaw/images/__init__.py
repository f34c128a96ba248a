"""Pictures: decoded and resized once, into one uint8 array."""
