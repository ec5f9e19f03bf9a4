"""What is the network? Transformer, control branches, tokenizer, text encoder, and how files become modules.

Import from the modules themselves; this package stays empty so that `import guided_transfer.models` costs nothing.
"""
