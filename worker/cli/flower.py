"""`flower`: the web dashboard, with its address, its password and its columns."""

import json
import secrets
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from worker.cli.celery_program import run_celery
from worker.cli.streams import echo
from worker.configuration import environment, load
from worker.errors import SettingsError
from worker.services import home as homes

USER = "vector_index"
TASKS_COLUMNS = "name,args,state,runtime,received,routing_key,retries,worker"  # of its list of tasks


@click.command()
@click.option("--address", help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to listen on.  [default: a free port, chosen once and stored in VECTOR_INDEX_HOME]",
)
def flower(address: str | None, port: int | None) -> int:
    """Run Flower, the web dashboard of tasks and workers.

    Set its other options with FLOWER_* environment variables. Set FLOWER_BASIC_AUTH (user:password) or FLOWER_AUTH
    to control access. Otherwise the first start generates a password, prints it once and stores it in
    VECTOR_INDEX_HOME.
    """
    if not find_spec("flower"):
        raise SettingsError('Flower is not installed: run `pip install ".[flower]"` in a clone')
    variables = environment()
    given = {"FLOWER_ADDRESS": address, "FLOWER_PORT": port and str(port)}
    variables.update({key: value for key, value in given.items() if value})
    access = set_defaults(variables, load().home)
    try:
        check_port(variables)
        echo(access)
        return run_celery("flower")
    except OSError as error:
        where = f"{variables['FLOWER_ADDRESS']}:{variables['FLOWER_PORT']}"
        raise SettingsError(
            f"Flower cannot listen on {where} ({error.strerror}): stop the program that uses it, or pass another "
            "--address or --port"
        ) from error
    except ValueError as error:
        raise SettingsError(
            f"a FLOWER_* variable has a wrong value ({error}): correct or unset it"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Access:
    """Flower's port and password, generated once and stored in flower.json of the home."""

    port: int
    password: str
    file: Path
    is_new: bool  # the password was generated now, so that nobody has seen it yet

    @classmethod
    def of(cls, home: Path) -> "Access":
        """Return what the home stores, generated if it is missing. Raises SettingsError."""
        file = home / "flower.json"
        try:
            is_new = not file.exists()
            if is_new:
                home.mkdir(mode=0o700, parents=True, exist_ok=True)
                port = next(filter(homes.is_free, secrets.SystemRandom().sample(homes.PORTS, 1_000)))
                homes.write_private(file, json.dumps({"port": port, "password": secrets.token_urlsafe(16)}))
            values = json.loads(file.read_text())
            return cls(port=int(values["port"]), password=str(values["password"]), file=file, is_new=is_new)
        except OSError as error:
            raise homes.unusable(home, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{file} is damaged: delete it") from error

    @property
    def url(self) -> str:
        return f"http://{homes.HOST}:{self.port}"

    def login(self, *, show_password: bool = True) -> str:
        """User and password as `up` and `flower` print them; the password itself only if it is new."""
        shown = (
            f"{self.password} (stored in {self.file})" if self.is_new and show_password else f"in {self.file}"
        )
        return f"user {USER}, password {shown}"

    def as_json(self) -> dict[str, str]:
        return {"FLOWER_URL": self.url, "FLOWER_USER": USER, "FLOWER_PASSWORD": self.password}

    def variables(self) -> dict[str, str]:
        """Environment variables for Flower; on its command line other users could read the password."""
        return {
            "FLOWER_ADDRESS": homes.HOST,
            "FLOWER_PORT": str(self.port),
            "FLOWER_BASIC_AUTH": f"{USER}:{self.password}",
        }

    def check_port(self) -> None:
        """Raise SettingsError if another program uses the port."""
        if not homes.is_free(self.port):
            raise SettingsError(
                f"port {self.port} of Flower is in use by another program: stop that program, or change the port "
                f"in {self.file}"
            )


def set_defaults(variables: MutableMapping[str, str], home: Path) -> str:
    """Set Flower's missing variables; return its URL and who may log in.

    An empty variable counts as missing: compose files pass those for unset ones, and Flower would accept an empty
    password.
    """
    for key in [key for key, value in variables.items() if key.startswith("FLOWER_") and not value]:
        del variables[key]
    defaults = {"FLOWER_ADDRESS": homes.HOST, "FLOWER_TASKS_COLUMNS": TASKS_COLUMNS}
    given = sorted({"FLOWER_AUTH", "FLOWER_BASIC_AUTH"} & variables.keys())
    login = f"log in as {' and '.join(given)} allows"
    if not given or "FLOWER_PORT" not in variables:
        access = Access.of(home)
        defaults |= access.variables()
        if given:  # the operator's own login replaces ours
            del defaults["FLOWER_BASIC_AUTH"]
        else:
            login = access.login()
    for key, value in defaults.items():
        variables.setdefault(key, value)
    return f"http://{variables['FLOWER_ADDRESS']}:{variables['FLOWER_PORT']}  {login}"


def check_port(variables: Mapping[str, str]) -> None:
    """Listen for a moment as Flower will. Raises OSError, or ValueError for a port that is not a number."""
    from tornado.netutil import bind_sockets  # a dependency of Flower, which may be missing

    if "FLOWER_UNIX_SOCKET" not in variables:
        for listening in bind_sockets(int(variables["FLOWER_PORT"]), address=variables["FLOWER_ADDRESS"]):
            listening.close()
