"""One strict reader for each kind of file: checked before a library sees the bytes."""
