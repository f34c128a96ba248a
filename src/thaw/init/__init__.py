"""`thaw init`: a commented recipe for somebody's images."""
