"""An artifact: a model file and its manifest, written whole, read strictly."""
