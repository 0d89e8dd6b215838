"""A BMC that measures its power: pyghmi's, which has all but Get Power Reading (DCMI 1.5, 6.6.1).

Arguments: address, port, completion code, watts now, minimum, maximum, average, and `activated` or `deactivated`.
"""

import struct
import sys

from pyghmi.ipmi.bmc import Bmc

DCMI = 0x2C
GET_POWER_READING = 2
GROUP = 0xDC
ACTIVATED = 0x40
TIME = 1_793_688_079
PERIOD = 5_000  # ms

address, port, completion, *watts, state = sys.argv[1:]
measured = struct.pack("<HHHHII", *map(int, watts), TIME, PERIOD) + bytes([ACTIVATED if state == "activated" else 0])


class MeasuringBmc(Bmc):
    def handle_raw_request(self, request, session):
        if (request["netfn"], request["command"]) != (DCMI, GET_POWER_READING):
            super().handle_raw_request(request, session)
        elif int(completion):
            session.send_ipmi_response(code=int(completion))
        else:
            session.send_ipmi_response(data=[GROUP, *measured])

    def get_power_state(self):
        return "on"


bmc = MeasuringBmc({"admin": "s3cret"}, address=address, port=int(port))
print("ready", flush=True)
bmc.listen()
