"""``flow_policy train``: recordings in, checkpoint folder out."""

# No postponed annotations here: tyro could not resolve those of a class that is local to a function.
import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

HELP = "train a vector flow policy on episodes, bags and LeRobot folders"


def main(argv: list[str]) -> int:
    """Returns 0, 1 when Ctrl-C ended it early (the checkpoint is usable) or the loss diverged, 2 when the input is bad."""
    import tyro

    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.data.episodes import EpisodeError
    from flow_policy_ros.training.config import DivergedError, TrainConfig, TrainError
    from flow_policy_ros.training.trainer import train

    @dataclass(frozen=True)
    class Arguments:
        """Train a vector flow policy on recordings and write a checkpoint folder."""

        config: Annotated[TrainConfig, tyro.conf.arg(name="")]
        json: Path | None = None
        """Write steps, samples_per_s, loss, validation and checkpoint to this file."""

    try:
        arguments = tyro.cli(Arguments, args=argv, prog="flow_policy train")
        require_file("--json", arguments.json)
        result = train(arguments.config, shlex.join(["flow_policy", "train", *argv]))
    except BrokenPipeError:  # of the reader of our output, not of what is read here
        raise
    except DivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (TrainError, EpisodeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(asdict(result), indent=2) + "\n")
    measured = ", ".join(f"{name} {value:.4g}" for name, value in result.validation.items())
    print(
        f"{'trained' if result.finished else 'interrupted after'} {result.steps} steps at {result.samples_per_s:.0f} "
        f"samples/s: loss {result.loss:.4g}; validation: {measured or 'none'}; checkpoint {result.checkpoint}"
    )
    return 0 if result.finished else 1
