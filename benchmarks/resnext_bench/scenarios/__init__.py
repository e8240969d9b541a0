"""What a row goes through after the timed rounds and apart from them."""
