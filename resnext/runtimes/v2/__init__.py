"""A model on a server that speaks the V2 protocol (Open Inference Protocol), as a runtime."""
