"""The Flower ServerApp of the coordinator: settings in, rounds, a checkpoint after each; goes on where a run was cut off."""

from logging import INFO, WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from server.strategy import SmileStrategy

if TYPE_CHECKING:
    from server.run_state import RunState
    from smile.config import SmileConfig
    from smile.model import SmileModel

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that `[tool.flwr.app.config]` describes and leave OUTPUT/round-NNNN, OUTPUT/log.jsonl and OUTPUT/status.html."""
    # Imported here so that the SuperLink's other commands do not load torch.
    from smile.config import from_flat
    from smile.site.disk import held

    config = from_flat(dict(context.run_config))
    settings = config.federation
    output = Path(settings.resume or settings.output or f"runs/{context.run_id}").resolve()
    if settings.resume and not output.is_dir():
        raise ValueError(f"{output} holds no run: give the folder of federation.output in federation.resume")
    # A ServerApp may outlive its SuperLink: of two in one folder each would spoil the other's replies.
    with held(output / ".lock", "flwr run"):
        _study(grid, config, output)


def _study(grid: Grid, config: "SmileConfig", output: Path) -> None:
    from server import run_state, status
    from smile import __version__
    from smile.model import build_model
    from smile.moments import shapes
    from smile.prompts import bank_hash
    from smile.protocol import source_fingerprint
    from smile.sharing import split_names

    settings = config.federation
    if settings.statistics == "shared" and config.training.local_steps > 1:
        log(
            WARNING,
            "shared statistics are those of the start of a round: exact with training.local-steps = 1",
        )
    model = build_model(config)
    shared, _ = split_names(model, settings.personal)
    state = _state(config, output, model)
    del model  # a large one would be held through all rounds
    log(INFO, "checkpoints, log and status.html: %s", output)
    said = {"version": __version__, "source": source_fingerprint(), "prompts": bank_hash()}

    def keep(done: run_state.RunState) -> None:
        run_state.save(output, done, config, said)

    if not settings.resume:
        keep(state)
    strategy = SmileStrategy(
        settings,
        state,
        shared=shared,
        moment_shapes=shapes(config),
        seed=config.training.seed,
        output=output,
        after_round=keep,
    )
    page, board = status.Status(output), status.Board(output)

    def show(line: dict[str, Any] | None = None) -> None:
        if line is not None:
            board.add(line)
        page.write(rounds=settings.rounds, ended=False)

    show()
    try:
        strategy.run(grid, _request(config, said), watch=show)
    finally:
        board.close()
        page.write(rounds=settings.rounds, ended=True)
    if state.rounds_averaged == 0:
        raise RuntimeError(f"no round had {settings.min_sites} good replies: see {output / 'log.jsonl'}")


def _state(config: "SmileConfig", output: Path, model: "SmileModel") -> "RunState":
    """That of a new run, or of the one that goes on. Raises ValueError where a run is in the way or there is none."""
    from server import run_state
    from smile.protocol import get_arrays

    if config.federation.resume:
        state = run_state.resume(output, config)
        log(INFO, "going on after round %d of %s", state.round, output)
        return state
    if (output / "log.jsonl").exists() or list(output.glob("round-*")):
        raise ValueError(
            f"{output} already holds a run: go on with it by federation.resume, or give another folder in federation.output"
        )
    return run_state.begin(get_arrays(model), config)


def _request(config: "SmileConfig", said: dict[str, str]) -> ConfigRecord:
    """What every site is told of the study."""
    from smile.config import to_flat
    from smile.protocol import weights_hash

    return ConfigRecord(
        {
            **to_flat(config),
            # Folders of ours are no business of theirs, nor is who else takes part.
            **{"federation.output": "", "federation.resume": "", "federation.sites": ""},
            "source": said["source"],
            "prompts": said["prompts"],
            "weights": weights_hash(config.model.pretrained),
        }
    )
