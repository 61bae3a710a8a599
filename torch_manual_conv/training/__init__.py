"""What train.py and `tmc-train` run.

config        every option, its range and its help          data          where images come from, and in which order
images        decode, crop, flip: one file to one tensor    loading       the processes that read them, and their ends
engine        the training and evaluation loops             checkpoint    written atomically, read without pickle
distributed   the differences when torchrun starts us       report        the progress bar and the files of a run
cli           the command
"""
