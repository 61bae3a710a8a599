"""The operators, each under its own stem:

    <stem>.py       the public functions: arguments, autocast, a missing batch dimension
    <stem>_op.py    the autograd.Functions, the shapes for tracing (fakes), and the registration
    _*.py           what several of them share; _register.py is what all of them need

An elementwise operator (sigmoid) is short enough to have both in <stem>.py, and is listed by being registered
(_elementwise.py: OPERATORS).
"""
