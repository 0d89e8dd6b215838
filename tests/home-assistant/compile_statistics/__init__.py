"""A part of Home Assistant for the test: compiles the statistics at once, which Home Assistant does each five minutes."""

from homeassistant.components.recorder import get_instance
from homeassistant.components.recorder.tasks import StatisticsTask
from homeassistant.util import dt

DOMAIN = "compile_statistics"


def setup(hass, _config):
    def compile_now(_call):
        now = dt.utcnow()
        start = now.replace(minute=now.minute - now.minute % 5, second=0, microsecond=0)
        get_instance(hass).queue_task(StatisticsTask(start, False))

    hass.services.register(DOMAIN, "now", compile_now)
    return True
