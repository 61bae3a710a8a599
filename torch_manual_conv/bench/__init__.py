"""How fast is it? `python -m torch_manual_conv.bench`: ours, torch's and the machine's limit, side by side.

cli        the command line                  measure    taking turns, medians, ratios
shapes     the layers by name                machine    what is measured on: names, peaks, copies
problems   convolutions, pools, sigmoid      record     one case: verified, timed, weighed
networks   fused stages, training steps      report     tables       picture    roofline       scaling    cost by size
"""
