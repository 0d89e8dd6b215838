"""Gives ipmi_sim sensors. Each has a file with its raw value, from 0 to 255, which ipmi_sim reads again each 200 ms."""

from typing import NamedTuple

MC = 0x20
PERIOD = 200  # ms


class Sensor(NamedTuple):
    name: str
    kind: str
    raw: int | None  # None: there is no reading
    per_step: tuple[int, int] = (1, 0)  # the value is raw * first * 10 ** second
    lower: tuple[int, int, int] | None = None  # raw: non-critical, critical, non-recoverable

    def value(self, raw):
        multiplier, exponent = self.per_step
        return raw * multiplier * 10**exponent


# The type of the sensor, the flags and the code of its unit (IPMI 2.0, 42.2 and 43.17).
KINDS = {
    "temperature": (0x01, 0, 1),
    "voltage": (0x02, 0, 4),
    "current": (0x03, 0, 5),
    "fan": (0x04, 0, 18),
    "power": (0x0B, 0, 6),
    "percent": (0x0B, 1, 0),
}

SENSORS = [
    Sensor("CPU1 Temp", "temperature", 45),
    Sensor("CPU2 Temp", "temperature", 47),
    Sensor("Inlet Temp", "temperature", 22),
    Sensor("Exhaust Temp", "temperature", 33),
    *[Sensor("Temp", "temperature", 30 + number) for number in range(9)],
    Sensor("Ghost Temp", "temperature", None),
    *[Sensor(f"Fan {number}", "fan", 53 + number, (1, 2), (9, 6, 3)) for number in range(1, 7)],
    Sensor("+12V", "voltage", 121, (1, -1)),
    Sensor("VBAT, 3V", "voltage", 30, (1, -1)),
    Sensor("{{ 7 * 6 }}", "voltage", 33, (1, -1)),
    Sensor("PS1 Current", "current", 8, (1, -1)),
    Sensor("Pwr Consumption", "power", 36, (5, 0)),
    Sensor("Fan Duty", "percent", 35),
]

ADDED = Sensor("DIMM Temp", "temperature", 36)


def board(folder, sensors):
    """Lines for the configuration of the board. Writes the files of the values."""
    lines = []
    for number, sensor in enumerate(sensors, 1):
        type, flags, unit = KINDS[sensor.kind]
        file = folder / f"sensor-{number}"
        file.write_text(f"{sensor.raw or 0}\n")
        lines.append(f'sensor_add {MC:#x} 0 {number} {type} 1 poll {PERIOD} file "{file}"')
        lower = sensor.lower or (0, 0, 0)
        mask = "000111" if sensor.lower else "000000"
        lines.append(f"sensor_set_threshold {MC:#x} 0 {number} settable {mask} 0 0 0 {lower[2]} {lower[1]} {lower[0]}")
        scanning = "scanning" if sensor.raw is not None else "no-scanning"
        lines.append(
            f"sensor_set_event_support {MC:#x} 0 {number} enable {scanning} per-state "
            "000000000000000 000000000000000 000000000000000 000000000000000"
        )
        multiplier, exponent = sensor.per_step
        name = sensor.name.encode()
        readable = 7 if sensor.lower else 0
        body = [MC, 0, number, 7, 1, 0x7F, 0x68, type, 1, 0, 0, 0, 0, readable, 0, flags, unit, 0, 0]
        body += [multiplier, 0, 0, 0, 0, (exponent & 0xF) << 4, 0, 0, 0, 0, 255, 0, 0, 0, 0]
        body += [lower[2], lower[1], lower[0], 0, 0, 0, 0, 0, 0xC0 | len(name), *name]
        record = [number & 0xFF, number >> 8, 0x51, 1, len(body), *body]
        lines.append(f"main_sdr_add {MC:#x} " + " ".join(f"{byte:#04x}" for byte in record))
    return "\n".join(lines) + "\n"
