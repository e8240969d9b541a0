"""The network: its configuration, its only `nn.Module` code, its layers, and its equivalent
forms.
"""
