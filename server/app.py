"""The Flower ServerApp of the coordinator: settings in, rounds, a checkpoint after each."""

from logging import INFO
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from server.strategy import SmileStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that `[tool.flwr.app.config]` describes and leave OUTPUT/round-NNNN and OUTPUT/log.jsonl."""
    # Imported here so that the SuperLink's other commands do not load torch.
    from smile import __version__
    from smile.checkpoint import save
    from smile.config import from_flat, to_flat
    from smile.model import build_model
    from smile.prompts import bank_hash
    from smile.protocol import get_arrays, source_fingerprint, weights_hash

    config = from_flat(dict(context.run_config))
    output = Path(config.federation.output or f"runs/{context.run_id}").resolve()
    if (output / "log.jsonl").exists():
        raise ValueError(f"{output} already holds a run: give another folder in federation.output")
    log(INFO, "checkpoints and log: %s", output)

    def after_round(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        meta = {
            "round": server_round,
            "version": __version__,
            "source": source_fingerprint(),
            "prompts": bank_hash(),
        }
        weights = {name: array.numpy() for name, array in arrays.items()}
        save(output / f"round-{server_round:04d}", weights, config, meta)
        return None

    strategy = SmileStrategy(
        min_sites=config.federation.min_sites,
        timeout=config.federation.round_timeout,
        log_file=output / "log.jsonl",
    )
    request = ConfigRecord(
        {
            **to_flat(config),
            "federation.output": "",  # a path of ours is no business of theirs
            "source": source_fingerprint(),
            "prompts": bank_hash(),
            "weights": weights_hash(config.model.pretrained),
        }
    )
    initial = ArrayRecord({name: Array(array) for name, array in get_arrays(build_model(config)).items()})
    strategy.start(
        grid,
        initial,
        num_rounds=config.federation.rounds,
        timeout=config.federation.round_timeout,
        train_config=request,
        evaluate_fn=after_round,
    )
    if strategy.rounds_averaged == 0:
        raise RuntimeError(
            f"no round had {config.federation.min_sites} good replies: see {output / 'log.jsonl'}"
        )
