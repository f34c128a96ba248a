"""Images: decoded, resized, normalised, encoded, and laid under heat maps."""
