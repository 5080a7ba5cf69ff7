"""The federation of beside_nvflare.py for NVIDIA FLARE, and only there: needs nvflare, not flwr.

With `--jobs` it writes the jobs (FedJob API); FLARE imports the controller from it, and runs it as the script of a site (Client API).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg


class Averaging(FedAvg):
    """FLARE's FedAvg, with the study's first weights and each round's model in a file.

    plan: of a study, to build the model from as our server does. start: a file of the same weights instead, and FLARE's server needs
    no torch; the other is "".
    """

    def __init__(self, plan: str, start: str, output: str, num_clients: int, num_rounds: int) -> None:
        super().__init__(num_clients=num_clients, num_rounds=num_rounds, persistor_id="")
        self.plan, self.start, self.output = plan, start, output

    def load_model(self) -> FLModel:
        if self.start:
            with np.load(self.start) as file:
                return FLModel(params=dict(file))
        from smile.config import from_flat
        from smile.model import build_model
        from smile.protocol import get_arrays

        return FLModel(
            params=get_arrays(build_model(from_flat(json.loads(Path(self.plan).read_text())["config"])))
        )

    def save_model(self, model: FLModel) -> None:
        np.savez(Path(self.output) / f"round-{self.current_round + 1:04d}.npz", **model.params)


def write_jobs(plan: Path, folder: Path) -> None:
    """The job folders FOLDER/built and FOLDER/given of PLAN, a JSON file with `config` (flat), `sites`, `start` and `output`."""
    from nvflare.job_config.api import FedJob
    from nvflare.job_config.script_runner import FrameworkType, ScriptRunner

    study = json.loads(plan.read_text())
    rounds, sites = study["config"]["federation.rounds"], len(study["sites"])
    for name, model in (("built", (str(plan), "")), ("given", ("", study["start"]))):
        job = FedJob(name=name, min_clients=sites)
        job.to_server(Averaging(*model, study["output"], sites, rounds))
        job.to_clients(ScriptRunner(__file__, script_args=f"--plan {plan}", framework=FrameworkType.RAW))
        job.export_job(str(folder))


def train_rounds(study: dict) -> None:
    """A site: weights in, our local training, weights and the number of captures out, until FLARE ends it."""
    import nvflare.client as flare

    from smile.config import from_flat
    from smile.model import build_model
    from smile.protocol import get_arrays, load_arrays
    from smile.site.store import Site
    from smile.split import held_out
    from smile.training import train

    flare.init()
    number = int(flare.get_site_name().removeprefix("site-"))
    config, site = from_flat(study["config"]), Site(Path(study["sites"][number - 1]))
    rows = np.flatnonzero(~held_out(site.subjects, share=config.training.holdout, seed=config.training.seed))
    model = build_model(config)
    while flare.is_running():
        incoming = flare.receive()
        load_arrays(model, incoming.params)
        done = incoming.current_round * config.training.local_steps
        parts = train(model, site, config, rows=rows, first_step=done)
        # FLARE weighs by this figure; ours by the number of captures.
        meta = {"NUM_STEPS_CURRENT_ROUND": len(rows)}
        flare.send(FLModel(params=get_arrays(model), metrics={"loss": parts["loss"]}, meta=meta))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--jobs", type=Path)
    chosen = parser.parse_args()
    if chosen.jobs:
        # By its name: FLARE cannot import a class of `__main__`.
        from nvflare_job import write_jobs as write

        write(chosen.plan, chosen.jobs)
    else:
        train_rounds(json.loads(chosen.plan.read_text()))


if __name__ == "__main__":
    main()
