"""Flower as we run it: its port, its password and its columns."""

import json
import secrets
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from worker.errors import SettingsError
from worker.services import home as homes

USER = "vector_index"
TASKS_COLUMNS = "name,args,state,runtime,received,routing_key,retries,worker"  # of its list of tasks


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Flower's port and password, invented once and kept in the home."""

    port: int
    password: str
    kept: Path
    is_new: bool  # the password, so that nobody has seen it yet

    @classmethod
    def of(cls, home: Path) -> "Monitor":
        kept = home / "flower.json"
        try:
            is_new = not kept.exists()
            if is_new:
                home.mkdir(mode=0o700, parents=True, exist_ok=True)
                port = next(filter(homes.is_free, secrets.SystemRandom().sample(homes.PORTS, 1_000)))
                homes.write_private(kept, json.dumps({"port": port, "password": secrets.token_urlsafe(16)}))
            values = json.loads(kept.read_text())
            return cls(port=int(values["port"]), password=str(values["password"]), kept=kept, is_new=is_new)
        except OSError as error:
            raise homes.unusable(home, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{kept} is damaged: delete it") from error

    @property
    def url(self) -> str:
        return f"http://{homes.HOST}:{self.port}"

    @property
    def who(self) -> str:
        """With which name and password it opens; the password itself is shown once."""
        shown = f"{self.password} (kept in {self.kept})" if self.is_new else f"in {self.kept}"
        return f"user {USER}, password {shown}"

    def as_json(self) -> dict[str, str]:
        return {"FLOWER_URL": self.url, "FLOWER_USER": USER, "FLOWER_PASSWORD": self.password}

    def variables(self) -> dict[str, str]:
        """For Flower's environment: on its command line others could read the password."""
        return {
            "FLOWER_ADDRESS": homes.HOST,
            "FLOWER_PORT": str(self.port),
            "FLOWER_BASIC_AUTH": f"{USER}:{self.password}",
        }

    def check_port(self) -> None:
        if not homes.is_free(self.port):
            raise SettingsError(
                f"port {self.port} of Flower is in use by another program: end that one, or change it in {self.kept}"
            )


def complete(variables: MutableMapping[str, str], home: Path) -> str:
    """Fill in what is missing of Flower's variables; returns where it opens, and for whom.

    An empty variable, as a compose file gives what is not set, is a missing one: Flower would take the empty
    password for the one to ask for.
    """
    for key in [key for key, value in variables.items() if key.startswith("FLOWER_") and not value]:
        del variables[key]
    defaults = {"FLOWER_ADDRESS": homes.HOST, "FLOWER_TASKS_COLUMNS": TASKS_COLUMNS}
    given = sorted({"FLOWER_AUTH", "FLOWER_BASIC_AUTH"} & variables.keys())
    who = f"for those that {' and '.join(given)} admits"
    if not given or "FLOWER_PORT" not in variables:
        monitor = Monitor.of(home)
        defaults |= monitor.variables()
        if given:  # a way in of one's own: no second one
            del defaults["FLOWER_BASIC_AUTH"]
        else:
            who = monitor.who
    for key, value in defaults.items():
        variables.setdefault(key, value)
    return f"http://{variables['FLOWER_ADDRESS']}:{variables['FLOWER_PORT']}  {who}"


def check_port(variables: Mapping[str, str]) -> None:
    """Listen for a moment as Flower will. Raises OSError, or ValueError for a port that is no number."""
    from tornado.netutil import bind_sockets  # it comes with Flower, which may be missing

    if "FLOWER_UNIX_SOCKET" not in variables:
        for listening in bind_sockets(int(variables["FLOWER_PORT"]), address=variables["FLOWER_ADDRESS"]):
            listening.close()
