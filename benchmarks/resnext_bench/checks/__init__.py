"""Validity checks: one module, one code and one page each. The page is the module's docstring."""
