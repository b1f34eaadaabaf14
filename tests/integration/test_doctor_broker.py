"""What `doctor` says of a broker that would lose tasks, or let no worker start."""

from pathlib import Path

import pytest
import redis

from tests.fixtures.system import eventually
from worker.cli.doctor import _broker
from worker.configuration import load
from worker.errors import SettingsError
from worker.services import running


def test_doctor_names_each_danger_of_the_broker_and_its_mend(tmp_path: Path) -> None:
    with running(tmp_path / "home", postgres=False) as services:
        configuration = load({"BROKER_URL": services.addresses.broker_url})
        assert _broker(configuration).endswith("append-only file on")
        with redis.Redis.from_url(services.addresses.broker_url) as client:
            used = client.info()["used_memory"]
            for option, danger, sentence in [
                ("maxmemory-policy", "allkeys-lru", "may drop queued tasks: .* set it to noeviction"),
                ("appendonly", "no", "forgets queued tasks when it stops: set its appendonly to yes"),
                (
                    "maxmemory",
                    used + used // 10,
                    r"memory is 9\d% full, and a full one takes no new work: raise",
                ),
            ]:
                before = client.config_get(option)[option]
                client.config_set(option, danger)
                with pytest.raises(SettingsError, match=sentence):
                    _broker(configuration)
                client.config_set(option, before)
            # while Valkey writes its file for the first time, it does not end when it is asked to
            eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
