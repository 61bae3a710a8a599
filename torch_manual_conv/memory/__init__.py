"""What does training keep in memory? `python -m torch_manual_conv.memory MODEL`

cli       the command line                   ledger    saved tensors, counted and attributed to layers
model     a model by name, and its variants  reasons   what each of them is kept for
report    the table and the picture          peak      the most memory that a call takes
"""
