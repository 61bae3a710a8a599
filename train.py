#!/usr/bin/env python3
"""Train an AlexNet on a folder of images, or without arguments on the built-in ones: `python train.py --help`."""

import sys

if __name__ == "__main__":
    try:
        from torch_manual_conv.training.cli import main
    except ImportError as error:  # no torch, or no compiled kernels
        sys.exit(f"train.py: error: {error}")
    except KeyboardInterrupt:
        print("train.py: error: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(main())
