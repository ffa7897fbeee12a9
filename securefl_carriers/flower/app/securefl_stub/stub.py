"""All that a run ships: the names of what is installed."""

import securefl_carriers.flower.apps as installed

server = installed.server
client = installed.client
