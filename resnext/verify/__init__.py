"""Is it the same function, in the requested precision?"""
