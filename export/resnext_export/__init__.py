"""Model to artifact: each converter is a module named ``<target>_from_<source>``. Command:
``resnext-export``.
"""
