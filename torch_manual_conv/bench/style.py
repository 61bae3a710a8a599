"""One look for every picture: colours that the colour-blind can tell apart (Okabe and Ito), and quiet axes."""

COLOURS = {
    "ours": "#0072B2",
    "ours, fused": "#009E73",
    "torch": "#D55E00",
    "torch.compile": "#CC79A7",
    "limit": "#555555",
}
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}


def signature(figure, facts):
    """Where the numbers come from, in a corner."""
    text = f"{facts['machine']}, torch {facts['torch']}, {facts['date']}"
    figure.supxlabel(text, fontsize=8, color="#555555", x=0.99, ha="right")
