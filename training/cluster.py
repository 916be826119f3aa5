"""The cells of an ablation as tasks on a Ray cluster: `winnow ablate RECIPE --on ray[:ADDRESS]`.

Ray decides where a cell runs, from what the recipe says a cell takes (`resources`); nothing here schedules. A cell is the
same function as on one machine, and what it makes lies in the workspace, so its figures are the same. A worker that dies
takes nothing with it but the steps behind its last checkpoint: Ray runs the cell again, and the cell goes on from there.

Winnow has to be installed on every machine of the cluster, and all of them see the workspace and the recipes in the same place.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from schemas.ablation import Resources
from schemas.errors import WinnowError

RETRIES = 3
"""How often a cell whose worker died is run again."""


class Sent(Protocol):
    """What of a job is looked at here."""

    @property
    def workspace(self) -> str: ...
    @property
    def title(self) -> str: ...


J = TypeVar("J", bound=Sent)


def address_of(on: str) -> str | None:
    """The address in `ray:ADDRESS`; None for `ray`: the cluster that this machine belongs to, else one of its own.

    Raises WinnowError where `on` names something else, or Ray is missing: nobody wants to hear that after the builds.
    """
    kind, _, address = on.partition(":")
    if kind != "ray" or (on != kind and not address):
        raise WinnowError(f"Cells cannot run on {on!r}.\nSay ray, or ray:ADDRESS, as in ray:10.0.0.1:6379.")
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise WinnowError(f"Cells on a cluster need Ray ({error}).\nInstall it: pip install 'winnow[ray]'") from error
    return address or None


def on_ray(
    jobs: Sequence[J],
    run: Callable[[J], Any],
    shared: Callable[[J], str],
    *,
    address: str | None,
    resources: Resources,
    gpus: int,
    say: Callable[[str], None],
) -> Iterator[tuple[J, Any]]:
    """run(job) of every job on the cluster, in the order of the jobs. `shared` names what two jobs make together: the
    first that needs it makes it, and the others wait for that one. `gpus`: of a cell, where the cluster has any and
    the recipe does not say.

    Raises WinnowError where the cluster cannot be reached, where a cell refuses, or where its worker died too often.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    ours = not ray.is_initialized()
    if ours:
        _reach(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what is curated here
        try:
            ray.init(address=address, logging_level="warning")
        except (RayError, ConnectionError, RuntimeError, ValueError) as error:
            raise WinnowError(f"No Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        wants = {"CPU": resources.cpus, "GPU": resources.gpus}
        if resources.gpus is None:
            wants["GPU"] = gpus if ray.cluster_resources().get("GPU") else 0
        _warn(ray.nodes(), wants, say)
        task = ray.remote(num_cpus=wants["CPU"], num_gpus=wants["GPU"], max_retries=RETRIES)(_cell)
        first, found = dict[str, Any](), []
        for job in jobs:
            made = task.options(name=job.title).remote(run, job, first.get(shared(job)))
            first.setdefault(shared(job), made)
            found.append(made)
        for job, made in zip(jobs, found, strict=True):
            try:
                yield job, ray.get(made)
            except RayTaskError as error:
                if isinstance(error.cause, WinnowError):
                    raise error.cause from None
                raise
            except RayError as error:
                raise WinnowError(
                    f"The cell {job.title} was lost {RETRIES + 1} times: {error}\n"
                    "What is finished stays; the same command goes on from there."
                ) from error
    finally:
        if ours:
            ray.shutdown()


def _reach(address: str | None) -> None:
    """Ray itself tries for minutes to reach a machine that is not there."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise WinnowError(
                f"No Ray cluster at {address}: {error}\n`ray start --head` starts one and says its address."
            ) from error


def _cell(run: Callable[[J], Any], job: J, after: Any) -> Any:
    """What a worker does. `after` is what another cell returned, which Ray waits for; only the waiting matters."""
    if not Path(job.workspace).is_dir():
        raise WinnowError(
            f"{os.uname().nodename} sees no workspace at {job.workspace}.\n"
            "All machines of the cluster must see it, and the recipes, in the same place: say --workspace FOLDER on a shared disk."
        )
    return run(job)


def _warn(nodes: Sequence[dict[str, Any]], wants: dict[str, Any], say: Callable[[str], None]) -> None:
    have = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(all(own.get(kind, 0) >= number for kind, number in wants.items()) for own in have):
        text = " and ".join(f"{number:g} {kind}" for kind, number in wants.items() if number)
        say(f"No machine of the cluster has {text}, which a cell takes: cells wait until one joins.")
