"""The commands by name: ``offramp NAME`` runs the module's ``main``, and nothing else is imported."""

from __future__ import annotations

from offramp.features.registry import Registry

COMMANDS: Registry[tuple[str, str]] = Registry(
    "command",
    "offramp.commands",
    {
        "frontier": ("offramp.eval.frontier", "stored outputs to a frontier of accuracy against cost"),
        "extract": ("offramp.eval.extract", "images and networks to stored outputs"),
        "profile": ("offramp.eval.profile", "networks on a device to what they cost there"),
        "run": ("offramp.eval.run", "a fitted cascade on images, timed beside its networks alone"),
        "tune": ("offramp.eval.tune", "a target and a search with Optuna to a policy file"),
        "certify": ("offramp.eval.certify", "a policy file and unseen examples to a guarantee"),
        "watch": ("offramp.eval.watch", "a stream of routings to alarms"),
        "train": ("offramp.eval.train", "labelled images to a trained network, with or without exits"),
        "papers": ("offramp.eval.papers.__main__", "tables of the papers with our numbers beside them"),
    },
)
"""Name -> module and what it turns into what. A new command is a module with ``main`` and a line here."""
