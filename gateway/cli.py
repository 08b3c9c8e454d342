"""The command line: `sluicegate run`, `check-config`, `dead-letters`.

Owns exit statuses (0 done, 1 this machine is in the way, 2 asked for something that cannot be)
and how messages look on a terminal. Everything else is gateway/app.py and gateway/config.py.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.text import Text

from gateway.config import Flags, GatewayConfig, default_data_directory, load
from gateway.errors import ConfigInvalid, GatewayError, UsageInvalid


def version() -> str:
    """The installed release."""
    import importlib.metadata

    return importlib.metadata.version("sluicegate")


app = App(
    name="sluicegate",
    help="An edge gateway broker: MQTT in, a durable log on disk, Apache Kafka upstream.",
    version=version,
)

# By its name: paho and MQTT are imported only where they are wanted.
app.command(
    "gateway.dead_letters:letters_app",
    name="dead-letters",
    help="List what subscribers would not have, and publish it again.",
)


@app.command
def run(
    *,
    config: Annotated[Path | None, Parameter(help="A TOML file; flags override it.")] = None,
    listen: Annotated[
        str | None, Parameter(help="Where devices connect; by default mqtt://127.0.0.1:1883.")
    ] = None,
    data: Annotated[Path | None, Parameter(help="Directory of everything that is kept.")] = None,
    upstream: Annotated[
        str | None, Parameter(help="Apache Kafka, as kafka://HOST:PORT[,HOST:PORT].")
    ] = None,
) -> None:
    """Run the gateway until SIGTERM or SIGINT; SIGHUP reads the configuration again."""
    # Held back until Gateway.run can answer it: the default is to die of it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    flags = Flags(config=config, listen=listen, data=data, upstream=upstream)
    loaded = load(flags, default_data=_default_data())
    _set_up_logging(loaded)
    # Kafka's schemas import it wherever it is installed, and it takes 11 MiB; a checkout has it.
    sys.modules.setdefault("hypothesis", None)  # type: ignore[arg-type]
    # Not before the configuration is sound: a wrong flag must not cost the time of all imports.
    from gateway.app import run_gateway

    run_gateway(loaded, reload=lambda: load(flags, default_data=_default_data()))


@app.command
def check_config(file: Path, /) -> None:
    """Say what is wrong in a configuration file, where, and what would be right."""
    loaded = load(Flags(config=file), default_data=_default_data())
    console = Console(highlight=False, soft_wrap=True)
    # As text, never as markup: a name in brackets is a name.
    console.print(Text(f"{file} is sound", style="green"))
    for listener in loaded.all_listeners():
        console.print(Text(f"  listens on  {listener.place}"))
        if listener.tls is not None:
            from gateway.tls import certificate_warning

            if text := certificate_warning(listener.tls, time.time()):
                console.print(Text(f"  warning     {text}", style="yellow"))
    console.print(Text(f"  data in     {loaded.data}"))
    for stream in loaded.streams:
        console.print(Text(f"  stream      {stream.name}, {stream.partition_count} partitions"))
    for upstream in loaded.upstreams:
        addresses = ",".join(str(address) for address in upstream.bootstrap)
        console.print(Text(f"  upstream    {upstream.name}, kafka://{addresses}"))
    if not loaded.upstreams:
        console.print("  upstream    none: everything stays here")


def _default_data() -> Path:
    return default_data_directory(os.environ, is_root=os.geteuid() == 0)


def _set_up_logging(config: GatewayConfig) -> None:
    # Under systemd the journal adds the time itself.
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s.%(msecs)03d "
    logging.basicConfig(
        stream=sys.stderr,
        level=config.log_level.upper(),
        format=f"{stamp}%(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    for chatty in ("asyncio", "aiokafka", "aiosqlite"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _fail(error: GatewayError) -> NoReturn:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if isinstance(error, ConfigInvalid):
        for problem in error.problems:
            console.print(Text(problem.place, style="bold"))
            console.print(Text(f"    {problem.wrong}", style="red"))
            console.print(Text(f"    {problem.right}"))
        count = len(error.problems)
        console.print(Text(f"{count} problem{'s' if count > 1 else ''}; nothing was changed."))
    else:
        console.print(Text.assemble(("error: ", "bold red"), str(error)))
    sys.exit(error.exit_status)


def main() -> None:
    """The entry point of the `sluicegate` command."""
    if len(sys.argv) == 1:
        app.help_print()
        return
    try:
        app(exit_on_error=False)
    except CycloptsError:
        # cyclopts has printed what is wrong with the arguments.
        sys.exit(UsageInvalid.exit_status)
    except GatewayError as error:
        _fail(error)


if __name__ == "__main__":
    main()
