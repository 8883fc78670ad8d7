"""The encoder for the transformers library: `configuration_xmae` and `modeling_xmae` leave with the folder that
`folder` makes. Only these need transformers, and only `xmae export-encoder` imports them.
"""
