"""A fitted cascade run on images, timed beside its networks alone: ``python -m eval.run --topology a_g_r``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from offramp.cascades.command.progress import steps
from offramp.cascades.command.settings import guard, parse
from offramp.cascades.files.provenance import home, refuse_other_networks, unseen_rows
from offramp.eval.measured.flags import Settings
from offramp.eval.measured.inputs import (
    FILES,
    load_models,
    open_labelled,
    open_whole,
    refuse_log,
    refuse_overwritten,
    refuse_unlike,
)
from offramp.eval.measured.picking import following, pick_cascades, point_of, read_data, read_policy
from offramp.eval.measured.promises import held_against, warnings_of
from offramp.eval.measured.shown import show
from offramp.eval.measured.trial import Trial
from offramp.features.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.run", __doc__ or "")))


def run(settings: Settings) -> None:
    """Fit or read the cascades, pick, load the networks and images, time all side by side, print, write."""
    from offramp.eval.report.files import csv_bytes, json_bytes, writable

    deployment = None if settings.policy is None else read_policy(settings)
    if deployment is not None:
        settings = following(settings, deployment)
    elif not settings.topology:
        raise InputError("a topology (a_g_r), or a policy file (--policy)", "neither", "--topology")
    if settings.log is not None:
        refuse_log(settings)
    refuse_overwritten(settings)
    folder = None if settings.out is None else writable(settings.out, "--out", FILES)
    data, routes = read_data(settings, deployment)
    with steps() as step:
        import torch

        from offramp.cascades.models.probing import pick_device

        device = pick_device(settings.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        step("loading the networks")
        models = load_models(settings, data, routes)
        if deployment is not None:
            refuse_other_networks(deployment, models, settings.source, str(settings.policy))
        step("reading the images")
        whole = open_whole(settings, models)
        images = open_labelled(settings, whole)
        step("fitting the cascades" if deployment is None else "reading the policy")
        fitted, picks = pick_cascades(settings, data, routes) if deployment is None else point_of(deployment)
        refuse_unlike(fitted, models, settings.source)
        step("decoding the images")
        unseen = unseen_rows(images, whole, data, home(settings.source))
        trial = Trial(settings, data, routes, fitted, picks, models, images, unseen, device)
        report = trial.report(step)
    if deployment is not None:
        report["policy"] = held_against(deployment, report)
        for line in warnings_of(deployment, settings, data, report["about"]["device"]):
            sys.stderr.write(f"warning: {line}\n")
    show(report)
    if folder is not None:
        import pandas as pd

        rows = pd.DataFrame([{**report["about"], **row} for row in report["systems"]])
        contents = {"run.csv": csv_bytes(rows), "run.json": json_bytes(report)}
        for path in folder.write_all(contents, tie="run.json"):
            sys.stdout.write(f"  {path}\n")
    if settings.log is not None:
        sys.stdout.write(f"  {settings.log}\n")


if __name__ == "__main__":
    sys.exit(main())
