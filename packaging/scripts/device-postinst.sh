#!/bin/sh
# Makes the service's user. The service is not enabled: it has no configuration yet.
set -e
if ! getent passwd atls-ws-device >/dev/null; then
	adduser --system --group --no-create-home --home /nonexistent --quiet atls-ws-device
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# An upgrade: sessions are handed off, and devices come back.
	systemctl try-restart atls-ws-device.service || true
fi
