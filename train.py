#!/usr/bin/env python3
"""Train an AlexNet on a folder of images, or without arguments on the built-in ones: `python train.py --help`."""

import sys

from torch_manual_conv.training.cli import main

if __name__ == "__main__":
    sys.exit(main())
