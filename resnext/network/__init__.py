"""The network: configuration, module, layers and equivalent forms."""
