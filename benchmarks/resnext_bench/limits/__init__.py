"""How fast this machine could be, how fast a network could be on it, and how close a row comes."""
