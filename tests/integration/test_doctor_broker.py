"""`doctor` reports a broker that would lose tasks or refuse new ones."""

from pathlib import Path

import pytest
import redis

from tests.fixtures.system import eventually
from worker.cli.doctor import check_broker
from worker.configuration import load
from worker.errors import SettingsError
from worker.services import running


def test_doctor_reports_each_dangerous_broker_setting_and_its_fix(tmp_path: Path) -> None:
    with running(tmp_path / "home", postgres=False) as services:
        configuration = load({"BROKER_URL": services.addresses.broker_url})
        assert check_broker(configuration).endswith("append-only file on")
        with redis.Redis.from_url(services.addresses.broker_url) as client:
            used = client.info()["used_memory"]
            for option, danger, sentence in [
                ("maxmemory-policy", "allkeys-lru", "may evict queued tasks: .* set it to noeviction"),
                ("appendonly", "no", "loses queued tasks when it stops: set its appendonly to yes"),
                (
                    "maxmemory",
                    used + used // 10,
                    r"uses 9\d% of its maxmemory, and refuses new tasks at 100%: raise",
                ),
            ]:
                before = client.config_get(option)[option]
                client.config_set(option, danger)
                with pytest.raises(SettingsError, match=sentence):
                    check_broker(configuration)
                client.config_set(option, before)
            # Valkey ignores a request to stop while it writes its first append-only file
            eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
